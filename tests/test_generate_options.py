"""What options do to decoding: rules, stop strings, log-probabilities, callbacks; refusals.

Legend: B row, T position, H column of the history, N new token, V vocabulary.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.errors import UserError
from llm_jax.inference import rules
from llm_jax.inference.generate import generate, stream
from llm_jax.inference.texts import Text
from llm_jax.models.build import abstract_params, build
from llm_jax.models.spec import model_config

V = 61
rng = np.random.default_rng(0)
PROMPTS = [rng.integers(0, V, length).tolist() for length in (1, 9, 4)]


@functools.cache
def made():
  """A model with a recurrent layer and a cache, and parameters so large that its choices vary."""
  layers = {"attention": {"num_heads": 2, "positions": "rope"}}
  model = build(
    model_config(
      vocab_size=V, d_model=16, tie_embeddings=False, pattern=("gru", "attention"), layers=layers
    )
  )

  def draw(path, leaf):
    noise = np.random.default_rng(sum(map(ord, jax.tree_util.keystr(path)))).normal(size=leaf.shape)
    return jnp.asarray(0.4 * noise + ("scale" in str(path[-1])), jnp.float32)

  return model, jax.tree_util.tree_map_with_path(draw, abstract_params(model))


def run(prompts=PROMPTS, **options):
  return generate(*made(), prompts, **{"max_new_tokens": 12} | options)


def history_of(rows):
  tokens_BH = np.full((len(rows), 16), -1, np.int32)
  for tokens_H, row in zip(tokens_BH, rows, strict=True):
    tokens_H[: len(row)] = row
  return rules.History(jnp.asarray(tokens_BH), jnp.array([len(row) for row in rows]))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_no_sequence_of_tokens_comes_back(size):
  draw = np.random.default_rng(1)
  rows = [draw.integers(0, 3, length).tolist() for length in (1, 2, 3, 5, 9, 12, 16)]
  rows.append([1, 0, 2, 1, 1, 0, 2, 2, 1, 0, 2, 1])
  forbidden_BV = np.isneginf(rules.forbid_ngrams(jnp.zeros((8, 3)), history_of(rows), size))
  for row, forbidden in zip(rows, forbidden_BV, strict=True):
    known = {tuple(row[i : i + size]) for i in range(len(row) - size + 1)}
    enough = len(row) >= size - 1
    after = [(*row[len(row) - size + 1 :], token) for token in range(3)]
    assert forbidden.tolist() == [enough and sequence in known for sequence in after]
  assert forbidden_BV.any()


def test_known_tokens_become_rarer_whatever_their_sign():
  logits_BV = jnp.array([[1.0, -1.0, 2.0, -2.0]] * 2)
  found_BV = rules.penalise_repetition(logits_BV, history_of([[0, 1, 0], [3]]), 2.0)
  assert found_BV.tolist() == [[0.5, -2.0, 2.0, -2.0], [1.0, -1.0, 2.0, -4.0]]


def test_rules_hold_in_a_whole_text():
  assert run(logit_bias={7: 2e4, 8: 1e4}, suppress_tokens=[7]) == [[8] * 12] * 3
  ends = [row[0] for row in run()]
  late = run(eos_token_id=ends, min_new_tokens=5)
  assert all(not set(row[:5]) & set(ends) and len(row) > 5 for row in late)


def test_log_probabilities_are_the_models_own_at_any_temperature():
  model, params = made()
  rows = run(return_log_probs=True, method="sample", temperature=2.0)
  assert len({tuple(row.ids) for row in rows}) == 3
  tokens_BT, segments_BT = np.zeros((2, 3, 21), np.int32)
  for b, (prompt, row) in enumerate(zip(PROMPTS, rows, strict=True)):
    tokens_BT[b, : len(prompt) + 12] = prompt + row.ids
    segments_BT[b, : len(prompt) + 12] = 1
  logits_BTV = jax.jit(model.apply)({"params": params}, tokens_BT, segments=segments_BT).logits
  log_probs_BTV = jax.nn.log_softmax(logits_BTV)
  for b, (prompt, row) in enumerate(zip(PROMPTS, rows, strict=True)):
    places = np.arange(12) + len(prompt) - 1
    np.testing.assert_allclose(row.log_probs, log_probs_BTV[b, places, row.ids], atol=1e-4)
    assert row.text is None and row.score is None


class Letters:
  """A tokenizer of a letter or two a token, with ids from "a"."""

  begin_id, end_id = 60, 0

  def encode(self, text):
    return [ord(letter) - 96 for letter in text]

  def decode(self, ids, special=False, after=()):
    return "".join(chr(97 + token % 26) * (1 + token // 40) for token in ids)

  def stream(self, special=False, after=()):
    letters = self

    class Whole:
      push = staticmethod(lambda token: letters.decode([token]))
      flush = staticmethod(lambda: "")

    return Whole()


def test_a_text_ends_with_the_first_stop_string_it_makes():
  words, options = ["a", "hello", "x"], {"tokenizer": Letters(), "max_new_tokens": 20}
  free = run(words, **options)
  stops = [free[0][3:5], free[1][12:15], free[1][13:15] + "?"]
  ends = [[text.find(stop) + len(stop) for stop in stops if stop in text] for text in free]
  expected = [text[: min(found, default=None)] for text, found in zip(free, ends, strict=True)]
  assert expected[0] != free[0] and expected[1] != free[1]
  assert run(words, stop_strings=stops, **options) == expected
  pieces = list(stream(*made(), words, chunk=4, stop_strings=stops, **options))
  assert ["".join(parts) for parts in zip(*pieces, strict=True)] == expected
  for row in run(words, stop_strings=stops, return_log_probs=True, **options):
    assert Letters().decode(row.ids).startswith(row.text) and len(row.ids) == len(row.log_probs)
    assert len(Letters().decode(row.ids[:-1])) < len(row.text)
  firsts = [text[0] for text in free]
  pieces = list(stream(*made(), words, chunk=4, stop_strings=firsts, **options))
  assert pieces == [firsts, [""] * 3]  # nothing is made behind the last end


@pytest.mark.parametrize(
  ("stops", "expected"),
  [
    (("pp", "p"), (3, "abp")),  # inside of a token, the earlier end of two
    (("bpp",), (3, "abpp")),
    (("ppc", "bpc"), (4, "abppc")),
    (("ppd",), (5, "abppce")),
    ((), (5, "abppce")),
  ],
)
def test_a_stop_string_is_found_over_tokens_and_in_them(stops, expected):
  text = Text(Letters(), False, stops)
  assert text.push([0, 1, 41, 2, 4]) == expected
  assert text.stopped == (expected[0] < 5)


def test_a_callback_sees_what_a_stream_yields():
  for tokenizer, prompts in ((None, PROMPTS), (Letters(), ["a", "bc", "d"])):
    seen = []
    options = {"tokenizer": tokenizer, "max_new_tokens": 20}
    assert run(prompts, callback=seen.append, **options) == run(prompts, **options)
    assert seen == list(stream(*made(), prompts, **options)) and len(seen) >= 2


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"min_p": 1.5}, "min_p must lie between 0 and 1, found 1.5"),
    ({"method": "sample", "temperature": -1.0}, "temperature must be above 0, found -1.0"),
    ({"method": "sample", "temperature": float("nan")}, "temperature must be above 0"),
    ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, found 0.0"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be at least 0"),
    ({"min_new_tokens": -1}, "min_new_tokens must be at least 0"),
    ({"logit_bias": {V: 1.0}}, f"logit_bias has token {V}, outside the model's vocabulary of {V}"),
    ({"logit_bias": {3: float("nan")}}, "logit_bias of token 3 must be a number"),
    ({"suppress_tokens": [-1]}, "suppress_tokens has token -1"),
    ({"forced_bos_token_id": 99}, "forced_bos_token_id has token 99"),
    ({"forced_eos_token_id": [1, 99]}, "forced_eos_token_id has token 99"),
    ({"eos_token_id": [1, 99]}, "eos_token_id has token 99"),
    ({"stop_strings": ["a", ""], "tokenizer": Letters()}, "A stop string is empty"),
    ({"stop_strings": "a"}, "stop_strings need a tokenizer"),
    ({"no_repeat_ngram_size": 1, "max_new_tokens": V}, "Prompt 0 has no continuation: the options"),
  ],
)
def test_a_mistake_is_told(options, message):
  prompts = ["a"] if "tokenizer" in options else PROMPTS[:1]
  with pytest.raises(UserError, match=message):
    run(prompts, **options)


def test_text_without_a_tokenizer_is_refused():
  with pytest.raises(UserError, match="needs a tokenizer"):
    run(["abc"])


def test_a_model_whose_logits_are_no_numbers_is_told():
  model, params = made()
  broken = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), params)
  with pytest.raises(UserError, match="logits are no numbers"):
    generate(model, broken, PROMPTS, max_new_tokens=12)
