"""Beam search: against all sequences there are, against each hypothesis read anew, and refusals.

Legend: B row, T position, N new token, V vocabulary.
"""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.errors import UserError
from llm_jax.inference.generate import generate, stream
from llm_jax.models.build import abstract_params, build
from llm_jax.models.spec import model_config

SMALL, V, END = 4, 31, 0
MODELS = {
  "tiny": {"vocab_size": SMALL, "pattern": ("lstm",)},
  "recurrent": {"pattern": ("mamba", "lstm", "rwkv4_channel_mix")},
  "windowed": {
    "pattern": ("local", "mlp"),
    "layers": {"local": {"type": "attention", "num_heads": 2, "window": 5, "positions": "rope"}},
  },
  "answers": {
    "kind": "encoder_decoder",
    "pattern": ("attention", "cross_attention", "mlp"),
    "encoder_repeats": 1,
    "decoder_start_id": 2,
    "positions": "learned",
    "max_length": 32,
  },
}
rng = np.random.default_rng(0)
PROMPTS = [rng.integers(0, V, length).tolist() for length in (1, 9, 4)]


@functools.cache
def made(name):
  """A model of width 16 and parameters so large that its choices vary."""
  given = {"vocab_size": V, "d_model": 16, "tie_embeddings": False, **MODELS[name]}
  model = build(model_config(**given))

  def draw(path, leaf):
    noise = np.random.default_rng(sum(map(ord, jax.tree_util.keystr(path)))).normal(size=leaf.shape)
    return jnp.asarray(0.4 * noise + ("scale" in str(path[-1])), jnp.float32)

  return model, jax.tree_util.tree_map_with_path(draw, abstract_params(model))


def log_probs_of(name, prompts, rows):
  """Of each row's tokens behind its prompt, by the whole forward pass."""
  model, params = made(name)
  answers = model.spec.kind == "encoder_decoder"
  before = [[model.spec.decoder_start_id]] * len(rows) if answers else prompts
  whole = [[*prompt, *row] for prompt, row in zip(before, rows, strict=True)]
  tokens_BT, segments_BT = _padded(whole)
  if answers:
    source_BS, source_segments_BS = _padded(prompts)
    apply = functools.partial(model.apply, source_segments=source_segments_BS)
    logits_BTV = jax.jit(apply)({"params": params}, source_BS, tokens_BT).logits
  else:
    logits_BTV = jax.jit(model.apply)({"params": params}, tokens_BT, segments=segments_BT).logits
  log_probs_BTV = np.asarray(jax.nn.log_softmax(logits_BTV))
  return [
    [float(log_probs_BTV[b, len(prompt) - 1 + n, token]) for n, token in enumerate(row)]
    for b, (prompt, row) in enumerate(zip(before, rows, strict=True))
  ]


def _padded(rows):
  columns = max(map(len, rows))
  tokens_BT = np.array([row + [0] * (columns - len(row)) for row in rows], np.int32)
  return tokens_BT, (np.arange(columns) < [[len(row)] for row in rows]).astype(np.int32)


@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0, -1.0])
def test_a_beam_as_wide_as_there_are_sequences_finds_all_in_order(penalty):
  model, params = made("tiny")
  going = [token for token in range(SMALL) if token != END]
  sequences = [[*row, END] for n in range(3) for row in itertools.product(going, repeat=n)]
  sequences += [list(row) for row in itertools.product(going, repeat=3)]
  each = log_probs_of("tiny", [[3, 1]] * len(sequences), sequences)
  worth = [sum(values) / len(values) ** penalty for values in each]
  order = sorted(range(len(sequences)), key=lambda i: -worth[i])
  found = generate(
    model,
    params,
    [[3, 1]],
    method="beam",
    num_beams=SMALL**3,
    num_return_sequences=len(sequences),
    max_new_tokens=3,
    length_penalty=penalty,
    eos_token_id=END,
    return_log_probs=True,
  )
  assert [row.ids for row in found] == [sequences[i] for i in order]
  np.testing.assert_allclose([row.score for row in found], [worth[i] for i in order], rtol=1e-4)


class Words:
  """A tokenizer of four tokens, of which one is two letters long."""

  begin_id = end_id = END
  pieces = ("", "a", "ab", "c")
  behind = set()

  def decode(self, ids, special=False, after=()):
    self.behind.add(tuple(after))
    return "".join(self.pieces[token] for token in ids)

  def stream(self, special=False, after=()):
    return types.SimpleNamespace(push=self.pieces.__getitem__, flush=str)


def test_a_beam_ends_hypotheses_at_stop_strings_as_at_end_tokens():
  model, params = made("tiny")
  stops, known = ["bc", "aa"], []  # over two tokens, and in the middle of the second
  for n in range(5):
    for row in itertools.product(range(SMALL), repeat=n):
      ends = [i for i in range(n) if row[i] == END or _holds(stops, row[: i + 1])]
      if (ends and ends[0] == n - 1) or (n == 4 and not ends):
        known.append(list(row))
  prompts = [[3, 1], [2]]
  options = {"method": "beam", "num_beams": SMALL**4, "max_new_tokens": 4, "eos_token_id": END}
  options |= {"num_return_sequences": len(known), "stop_strings": stops, "tokenizer": Words()}
  found = generate(model, params, prompts, return_log_probs=True, **options)
  assert Words.behind >= {(3, 1), (2,)}  # each is decoded behind its own prompt
  for b, prompt in enumerate(prompts):
    each = log_probs_of("tiny", [prompt] * len(known), known)
    worth = [sum(values) / len(values) for values in each]
    order = sorted(range(len(known)), key=lambda i: -worth[i])
    rows = found[b * len(known) : (b + 1) * len(known)]
    assert [row.ids for row in rows] == [known[i] for i in order]
    assert all(Words().decode(row.ids).startswith(row.text) for row in rows)
    stopped = [row.text for row in rows if _holds(stops, row.ids)]
    assert len(stopped) > 5 and all(text.endswith(tuple(stops)) for text in stopped)


def _holds(stops, ids):
  return any(stop in Words().decode(ids) for stop in stops)


@pytest.mark.parametrize("name", ["recurrent", "answers"])
def test_each_hypothesis_has_the_score_of_reading_it_anew(name):
  model, params = made(name)
  options = {
    "method": "beam",
    "num_beams": 5,
    "num_return_sequences": 5,
    "max_new_tokens": 12,
    "length_penalty": 0.5,
    "eos_token_id": [4, 7],
  }
  found = generate(model, params, PROMPTS, return_log_probs=True, **options)
  rows = [row.ids for row in found]
  assert len(set(map(len, rows))) > 1
  prompts = [prompt for prompt in PROMPTS for _ in range(5)]
  for row, expected in zip(found, log_probs_of(name, prompts, rows), strict=True):
    np.testing.assert_allclose(row.log_probs, expected, atol=2e-4)
    assert row.score == pytest.approx(sum(expected) / len(expected) ** 0.5, abs=1e-3)
  for start in (0, 5, 10):
    scores = [row.score for row in found[start : start + 5]]
    assert scores == sorted(scores, reverse=True)
    assert len(set(map(tuple, rows[start : start + 5]))) == 5


def test_nothing_is_traced_for_other_prompts_and_numbers_of_a_bucket():
  model, params = made("windowed")
  options = {"method": "beam", "num_beams": 3, "eos_token_id": 7}
  generate(model, params, PROMPTS, max_new_tokens=13, **options)
  with jax.no_tracing():
    options |= {"length_penalty": 0.3, "early_stopping": "never", "num_return_sequences": 1}
    generate(model, params, [[2] * 12, [3], [4]], max_new_tokens=11, **options)
    options["early_stopping"] = True
    generate(model, params, [[2], [3], [4]], max_new_tokens=16, **options)


def test_a_beam_streams_its_rows_whole():
  model, params = made("windowed")
  options = {"method": "beam", "num_beams": 3, "max_new_tokens": 13, "eos_token_id": 7}
  seen = []
  rows = generate(model, params, PROMPTS, callback=seen.append, **options)
  assert [rows] == seen == list(stream(model, params, PROMPTS, chunk=2, **options))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_beams": 17, "max_new_tokens": 2}, "17, wider than the 16 sequences"),
    ({"num_beams": 0}, "num_beams must be at least 1"),
    ({"num_return_sequences": 5}, "num_return_sequences is 5, but a beam of num_beams=4"),
    ({"early_stopping": "often"}, "must be True, False or 'never', found 'often'"),
    ({"length_penalty": float("nan")}, "length_penalty must be a number"),
    ({"method": "greedy", "num_beams": 2}, "num_beams=2 needs method='beam', found 'greedy'"),
    ({"suppress_tokens": range(SMALL)}, "Prompt 0 has no continuation: the options forbid every"),
    (
      {"num_return_sequences": 3, "forced_bos_token_id": 1, "max_new_tokens": 1, "num_beams": 3},
      "Prompt 0 has no 3 continuations",
    ),
  ],
)
def test_a_mistake_is_told(options, message):
  with pytest.raises(UserError, match=message):
    generate(*made("tiny"), [[1]], **{"method": "beam", "max_new_tokens": 3} | options)
