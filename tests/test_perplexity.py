"""Nats of tokens: windows, carried states and batches against one token after the other.

Legend: B batch, T position, V vocabulary.
"""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from llm_jax import command_line
from llm_jax.config import base
from llm_jax.data import tokenizers
from llm_jax.errors import UserError
from llm_jax.evaluation import likelihood, perplexity, tasks, token_scores
from llm_jax.evaluation.scores import normal_form
from llm_jax.inference import settings
from llm_jax.inference.generate import generate
from llm_jax.models.build import abstract_params, build
from llm_jax.models.spec import model_config
from llm_jax.training import runs

ROPE = {"attention": {"num_heads": 2, "positions": "rope"}}
MODELS = {
  "rope": {"layers": ROPE},
  "learned": {"positions": "learned", "max_length": 24},
  "recurrent": {
    "pattern": ("mamba", "local", "rwkv4_time_mix"),
    "layers": ROPE | {"local": {"type": "attention", "window": 4}},
  },
  "encoder_decoder": {
    "kind": "encoder_decoder",
    "encoder_pattern": ("attention", "mlp"),
    "encoder_repeats": 1,
    "pattern": ("attention", "cross_attention", "mlp"),
  },
}
TOKENIZER = tokenizers.get(ConfigDict({"name": "byte", "vocab_size": 0}), [])
V = TOKENIZER.vocab_size
rng = np.random.default_rng(0)
TEXTS = [rng.integers(0, V, length).astype(np.int32) for length in (3, 40, 17, 2)]


def made(name):
  """A model of width 32 and parameters so large that its choices vary."""
  model = build(model_config(**{"vocab_size": V, "d_model": 32, "repeats": 1} | MODELS[name]))

  def draw(path, leaf):
    noise = np.random.default_rng(sum(map(ord, jax.tree_util.keystr(path)))).normal(size=leaf.shape)
    return jnp.asarray(0.3 * noise + ("scale" in str(path[-1])), jnp.float32)

  return model, jax.tree_util.tree_map_with_path(draw, abstract_params(model))


def by_hand(model, params, contexts, targets):
  """(nats, correct) of each target behind its own context, all contexts in one batch."""
  tokens_BT = np.zeros((len(contexts), max(map(len, contexts))), np.int32)
  segments_BT = np.zeros_like(tokens_BT)
  for b, context in enumerate(contexts):
    tokens_BT[b, : len(context)], segments_BT[b, : len(context)] = context, 1
  logits_BTV = jax.jit(model.apply)({"params": params}, tokens_BT, segments=segments_BT).logits
  logits_BV = logits_BTV[np.arange(len(contexts)), segments_BT.sum(1) - 1]
  nats_B = -jax.nn.log_softmax(logits_BV)[np.arange(len(contexts)), np.asarray(targets)]
  return np.asarray(nats_B), np.asarray(logits_BV.argmax(-1) == np.asarray(targets))


def test_windows_score_each_token_once_behind_enough_context():
  for length, window in itertools.product(range(2, 14), range(1, 9)):
    ids = np.arange(length)
    for stride in range(1, window + 1):
      scored = []
      for row in token_scores.windows(ids, window, stride):
        assert len(row.ids) - 1 <= window
        for place in range(row.first, len(row.ids)):
          assert place > window - stride or row.ids[0] == 0
          scored.append(row.ids[place])
      assert scored == list(range(1, length))


def test_windows_are_what_reading_each_context_by_itself_gives():
  model, params = made("rope")
  ids, window, stride = TEXTS[2], 6, 4
  starts = [max(0, -(-(t - window) // stride) * stride) for t in range(1, len(ids))]
  contexts = [ids[s:t] for t, s in enumerate(starts, 1)]
  nats, correct = by_hand(model, params, contexts, ids[1:])
  found = perplexity.score_exactly(model, params, [ids], window, stride)
  assert found == (pytest.approx(nats.sum(), rel=1e-5), correct.sum(), len(ids) - 1)
  whole = perplexity.score_exactly(model, params, [ids], window=0)
  assert perplexity.score_exactly(model, params, [ids], 16, 16) == pytest.approx(whole, rel=1e-5)
  assert abs(whole[0] - found[0]) > 0.1  # or the window had shown nothing


@pytest.mark.parametrize("name", ["rope", "recurrent"])
def test_a_state_carried_from_chunk_to_chunk_scores_texts_of_any_length(name, monkeypatch):
  monkeypatch.setattr(token_scores, "_CHUNK", 8)
  monkeypatch.setattr(token_scores, "_BATCH_TOKENS", 64)
  model, params = made(name)
  whole = token_scores.score(model, params, [token_scores.Row(ids) for ids in TEXTS])
  found = dict(token_scores.carried(model, params, TEXTS))
  assert sorted(found) == [0, 1, 2, 3]
  for index, (nats_N, correct_N) in found.items():
    assert len(nats_N) == len(TEXTS[index]) - 1
    np.testing.assert_allclose(nats_N, whole[index].nats_N, atol=1e-5, rtol=1e-5)
    assert correct_N.tolist() == whole[index].correct_N.tolist()
  nats, _ = by_hand(model, params, [TEXTS[1][:-1]], TEXTS[1][-1:])
  np.testing.assert_allclose(found[1].nats_N[-1:], nats, atol=1e-5, rtol=1e-5)


def test_a_text_longer_than_the_learned_positions_needs_a_window():
  model, params = made("learned")
  with pytest.raises(UserError, match=r"Text 1 has 39 tokens.*24.*--window"):
    perplexity.score_exactly(model, params, TEXTS, window=0)
  with pytest.raises(UserError, match="--window=24"):
    perplexity.score_exactly(model, params, TEXTS, window=25, stride=1)
  with pytest.raises(UserError, match="Row 0 has 39 tokens"):
    token_scores.score(model, params, [token_scores.Row(TEXTS[1])])
  tokens = sum(len(ids) - 1 for ids in TEXTS)
  assert perplexity.score_exactly(model, params, TEXTS, window=24, stride=12)[2] == tokens


@pytest.fixture
def run(monkeypatch):
  """A run that was never trained, in place of whatever folder is read."""
  model, params = made("rope")
  config = base()
  config.seq_len, config.batch_size, config.data.pack = 64, 2, False
  found = runs.Trained(config, TOKENIZER, model, params, labels=(), text_sha256="")
  monkeypatch.setattr(runs, "read", lambda folder, step: found)
  return found


def test_evaluate_agrees_with_its_rows_and_counts_bytes(run, tmp_path):
  path = tmp_path / "text.jsonl"
  path.write_text('{"text": "Sätze mit Umlauten."}\n{"text": "another document"}\n')
  rows, whole, windows = (
    perplexity.evaluate("", str(path), window=window, stride=stride)
    for window, stride in ((None, None), (0, None), (64, 32))
  )
  num_bytes = len("Sätze mit Umlauten.another document".encode())
  assert rows["bytes"] == whole["bytes"] == num_bytes
  assert rows["tokens"] == whole["tokens"] == windows["tokens"] == num_bytes + 2  # with each end
  assert whole["loss"] == pytest.approx(rows["loss"], rel=1e-5)
  assert windows["loss"] == pytest.approx(rows["loss"], rel=1e-5)
  nats = whole["loss"] * whole["tokens"]
  assert whole["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes)
  assert (windows["window"], windows["stride"]) == (64, 32)
  assert perplexity.evaluate("", str(path), window=8)["stride"] == 4
  for window, stride in ((None, 4), (0, 4), (-1, None), (8, 9), (8, 0)):
    with pytest.raises(UserError, match="window"):
      perplexity.evaluate("", str(path), window=window, stride=stride)


def test_continuations_are_scored_in_batches_as_by_hand():
  model, params = made("rope")
  pairs = [("ab", "cde"), ("", "x"), ("a longer context, of a second bucket ", "yes"), ("a", "b")]
  found = likelihood.continuations(model, params, TOKENIZER, pairs)
  for (context, continuation), one in zip(pairs, found, strict=True):
    ids = [TOKENIZER.begin_id, *TOKENIZER.encode(context + continuation)]
    first = len(ids) - len(continuation)
    contexts = [ids[:t] for t in range(first, len(ids))]
    nats, correct = by_hand(model, params, contexts, ids[first:])
    assert one.nats == pytest.approx(-nats.sum(), rel=1e-4)
    assert (one.tokens, one.greedy, one.cut) == (len(continuation), correct.all(), 0)
  before = [[TOKENIZER.begin_id, byte] for byte in range(32, 127)]  # a byte's id is its value
  logits_BTV = jax.jit(model.apply)({"params": params}, np.asarray(before)).logits
  likely = zip(before, logits_BTV[:, -1].argmax(-1).tolist(), strict=True)
  pairs = [(chr(context[1]), chr(byte)) for context, byte in likely if 32 <= byte < 127]
  found = likelihood.continuations(model, params, TOKENIZER, pairs)
  assert len(found) > 5
  assert all(one.greedy for one in found)
  with pytest.raises(UserError, match="Continuation 1 is empty"):
    likelihood.continuations(model, params, TOKENIZER, [("a", "b"), ("a", "")])


class Pairs:
  """A tokenizer of bytes in which "ab" and a space with the "y" behind it are one token each."""

  begin_id = TOKENIZER.begin_id

  def encode(self, text):
    return list(text.replace("ab", "\x01").replace(" y", "\x02").encode())


def test_a_token_across_the_border_belongs_to_the_continuation():
  model, params = made("rope")
  pairs = [("xa", "b"), ("x ", "y"), ("x", " y")]
  found = likelihood.continuations(model, params, Pairs(), pairs)
  nats, _ = by_hand(model, params, [[Pairs.begin_id, ord("x")]] * 2, [1, 2])
  assert [one.tokens for one in found] == [1, 1, 1]
  np.testing.assert_allclose([-one.nats for one in found], nats[[0, 1, 1]], rtol=1e-5)


def test_a_context_too_long_for_the_model_is_cut_at_its_beginning_and_counted():
  model, params = made("learned")
  text = "0123456789" * 5
  [found] = likelihood.continuations(model, params, TOKENIZER, [(text, "xyz")])
  assert found.cut == 1 + len(text) + 3 - 1 - 24
  ids = TOKENIZER.encode(text + "xyz")[-25:]
  nats, _ = by_hand(model, params, [ids[:t] for t in (22, 23, 24)], ids[22:])
  assert found.nats == pytest.approx(-nats.sum(), rel=1e-4)
  with pytest.raises(UserError, match="Continuation 0 has 50 tokens"):
    likelihood.continuations(model, params, TOKENIZER, [("", text)])


def test_rolling_likelihood_is_that_of_every_token_once():
  for name in ("rope", "learned"):
    model, params = made(name)
    text = "The text is longer than learned positions reach."
    ids = [TOKENIZER.begin_id, *TOKENIZER.encode(text)]
    start = 24 if name == "learned" else len(ids)
    contexts = [ids[:t] for t in range(1, min(start, len(ids) - 1) + 1)]
    contexts += [ids[(t - 1) // 24 * 24 : t] for t in range(start + 1, len(ids))]
    nats, _ = by_hand(model, params, contexts, ids[1:])
    assert likelihood.rolling(model, params, TOKENIZER, ["a", text])[1] == pytest.approx(
      -nats.sum(), rel=1e-4
    )
  with pytest.raises(UserError, match="Text 0 is empty"):
    likelihood.rolling(model, params, TOKENIZER, [""])


def test_an_encoder_decoder_takes_the_context_for_its_source():
  model, params = made("encoder_decoder")
  pairs = [("source", "target"), ("another source", "target")]
  found = likelihood.continuations(model, params, TOKENIZER, pairs)
  source = [*TOKENIZER.encode("source"), TOKENIZER.end_id]
  ids = np.asarray([model.spec.decoder_start_id, *TOKENIZER.encode("target")])
  apply = jax.jit(model.apply)
  logits_BTV = apply({"params": params}, np.asarray([source]), ids[None, :-1]).logits
  nats = -jax.nn.log_softmax(logits_BTV[0])[np.arange(6), ids[1:]].sum()
  assert found[0].nats == pytest.approx(-float(nats), rel=1e-5)
  assert abs(found[0].nats - found[1].nats) > 1e-3
  with pytest.raises(UserError, match="needs a decoder"):
    likelihood.rolling(model, params, TOKENIZER, ["a"])


def test_choices_are_normalised_by_their_bytes_and_tokens(monkeypatch):
  nats = {"short": -4.0, "a long choice": -5.0, "äöü": -2.0, "x": -1.0}
  tokens = {"short": 8, "a long choice": 2, "äöü": 2, "x": 1}
  monkeypatch.setattr(
    likelihood,
    "continuations",
    lambda model, params, tokenizer, pairs: [
      likelihood.Likelihood(nats[choice], tokens[choice], False, len(context))
      for context, choice in pairs
    ],
  )
  choices = ["short", "a long choice", "äöü"]  # nats a byte: -0.8, -0.38, -0.33; a letter: -0.67
  items = [("", choices, 2), ("c", choices, 2), ("", choices, 0), ("", choices, 1)]
  found = likelihood.multiple_choice(None, None, None, [*items, ("", ["x", "short"], 0)])
  right = {"acc": 3 / 5, "acc_norm": 2 / 5, "acc_norm_tokens": 1 / 5}  # items 1, 2, 5; 1, 2; 3
  assert found == right | {"examples": 5, "cut": 1}
  with pytest.raises(UserError, match="Item 0 has 2 choices"):
    likelihood.multiple_choice(None, None, None, [("", ["x", "short"], 2)])


def test_tasks_of_text_are_scored_and_written_with_their_command(run, tmp_path, capsys):
  loaded = (run.model, run.params, TOKENIZER)
  prompts = ["ab", "a longer prompt"]
  texts = generate(*loaded[:2], prompts, tokenizer=TOKENIZER, max_new_tokens=6)
  assert normal_form(texts[1])
  lines = [{"prompt": prompts[0], "references": [texts[0]], "stop": [texts[0][1:3]]}]
  lines += [{"prompt": prompts[1], "references": ["zzz", texts[1]]}]
  path = tmp_path / "words.jsonl"
  path.write_text("\n".join(map(json.dumps, lines)))
  argv = ["evaluate", f"--workdir={tmp_path}", f"--task={path}", "--max-new-tokens=6"]
  assert command_line.main([*argv, "--metrics=exact_match,rouge"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["scores"]["exact_match"] == 0.5
  assert found["scores"].keys() >= {"rouge1", "rougeLsum", "examples"}
  assert found == json.loads((tmp_path / "evaluation-words.json").read_text())
  assert command_line.main([*argv, "--data=x"]) == 2
  path.write_text('{"text": "some words here "}\n{"text": "two\\nwords"}')
  words = [("some words ", "here"), ("two\n", "words")]
  nats = [one.nats for one in likelihood.continuations(*loaded, words)]
  last = tasks.evaluate("", path)
  assert last["perplexity"] == pytest.approx(np.exp(-np.mean(nats)), rel=1e-5)
  assert (last["examples"], last["cut"]) == (2, 0)


def test_a_task_keeps_to_what_the_checkpoint_says_of_decoding(run, tmp_path):
  loaded, path = (run.model, run.params), tmp_path / "words.jsonl"
  options = {"tokenizer": TOKENIZER, "max_new_tokens": 6}
  [free] = generate(*loaded, ["ab"], return_log_probs=True, **options)
  [text] = generate(*loaded, ["ab"], suppress_tokens=free.ids, **options)
  path.write_text(json.dumps({"prompt": "ab", "references": [text.strip()]}))
  assert tasks.evaluate(tmp_path, path, metrics=["chrf"], max_new_tokens=6)["chrf"] < 50
  (tmp_path / settings.FILE).write_text(json.dumps({"bad_words_ids": [[i] for i in free.ids]}))
  found = tasks.evaluate(tmp_path, path, metrics=["chrf"], max_new_tokens=6)
  assert found["chrf"] == pytest.approx(100)


def test_a_prompt_without_room_for_its_answer_is_named():
  run = runs.Trained(base(), TOKENIZER, *made("learned"), labels=(), text_sha256="")
  examples = [{"prompt": "a", "references": ["b"]}, {"prompt": "a" * 19, "references": ["b"]}]
  with pytest.raises(UserError, match="Example 2 needs 25 positions"):
    tasks.generation(run, examples, ["f1"], 5, {})
