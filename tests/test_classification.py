"""Classification: the layouts id by id, what pooling reads, what is refused, and that it learns."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from llm_jax import command_line
from llm_jax import config as config_schema
from llm_jax.data import tokenizers
from llm_jax.errors import UserError
from llm_jax.evaluation import jobs
from llm_jax.models import build
from llm_jax.models.heads import pool
from llm_jax.models.spec import model_config
from llm_jax.objective import check_suits, make, options
from llm_jax.objectives.classification import Classification
from llm_jax.training import loop

A, B, C = 97, 98, 99  # a byte's id is the byte


def with_tokens(chosen):
  return tokenizers.get(
    ConfigDict({"name": "byte", "vocab_size": 0}), [], special=chosen.SPECIAL_TOKENS
  )


def first_row(chosen, record, seq_len=8):
  tokenizer = with_tokens(chosen)
  rows = chosen.examples([{"label": "no", **record}], tokenizer, ("no", "yes"), seq_len)
  return {name: array[0] for name, array in rows.items()}, dict(tokenizer.vocabulary.special)


@pytest.mark.parametrize(
  ("layout", "pairs", "expected"),
  [
    ("classifier", False, ["[CLS]", A, B, "[SEP]"]),
    ("classifier", True, ["[CLS]", A, B, "[SEP]", C, "[SEP]"]),
    ("extract", False, ["<|endoftext|>", A, B, "<extract>"]),
    ("extract", True, ["<|endoftext|>", A, B, "<delimiter>", C, "<extract>"]),
    ("plain", False, [A, B]),
    ("plain", True, [A, B, "[SEP]", C]),
  ],
)
def test_the_layouts_are_those_of_the_papers(layout, pairs, expected):
  chosen = Classification(layout=layout, pairs=pairs)
  row, special = first_row(chosen, {"text": "ab", "text_b": "c"})
  ids = [special.get(token, token) for token in expected]
  assert row["tokens"].tolist() == ids + [0] * (8 - len(ids))
  assert row["segments"].tolist() == [1] * len(ids) + [0] * (8 - len(ids))
  assert row["framing"].tolist() == [isinstance(t, str) for t in expected] + [0] * (8 - len(ids))
  second = {"classifier": [0, 0, 0, 0, 1, 1], "extract": [0, 0, 0, 0, 1, 1], "plain": [0, 0, 0, 1]}
  types = second[layout] if pairs else []
  assert row["token_types"].tolist() == types + [0] * (8 - len(types))
  assert row["targets"] == 0 and row["weights"] == 1


def test_a_cut_takes_from_the_longer_text_and_keeps_the_frame():
  chosen = Classification(pairs=True, too_long="cut")
  row, special = first_row(chosen, {"text": "abcdefgh", "text_b": "xy"})
  frame = [special["[CLS]"], special["[SEP]"], special["[SEP]"]]
  assert row["tokens"].tolist() == [frame[0], 97, 98, 99, frame[1], 120, 121, frame[2]]


@pytest.mark.parametrize(
  ("record", "message"),
  [
    ({"text": "abcdefgh"}, "Record 1 has 8 tokens, and seq_len leaves room for 6"),
    ({"text": ""}, "Record 1: 'text' is empty"),
    ({"text": 3}, "Record 1: expected a text as 'text', found 3"),
    ({"text": "a", "label": "maybe"}, "Record 1 has the label 'maybe'.*no, yes"),
  ],
)
def test_a_record_that_cannot_be_read_is_named(record, message):
  with pytest.raises(UserError, match=message):
    first_row(Classification(), record)


@pytest.mark.parametrize(
  ("chosen", "message"),
  [
    ({"layout": "clasifier"}, "Did you mean 'classifier'"),
    ({"too_long": "crop"}, "objective_options.too_long"),
    ({"token_dropout": 1.0}, "less than 1"),
    ({"token_dropout": 0.1, "language_model_weight": 0.5}, "cannot be predicted"),
  ],
)
def test_options_that_mean_nothing_are_refused(chosen, message):
  with pytest.raises(UserError, match=message):
    Classification(**chosen)


def test_one_label_is_no_choice():
  with pytest.raises(UserError, match="All training records have the label 'a'"):
    Classification().labels([{"label": "a"}, {"label": "a"}])


def spec_of(**model):
  model = {"heads": ("classification",), "num_classes": 2, "vocab_size": 262, **model}
  return build.build(model_config(d_model=16, repeats=1, **model)).spec


@pytest.mark.parametrize(
  ("chosen", "model", "message"),
  [
    ({}, {"kind": "encoder", "pooling": "last"}, "layout=extract or plain"),
    ({"layout": "extract"}, {"pooling": "mean"}, "layout=classifier or plain"),
    ({}, {"pooling": "first"}, "has seen no text yet"),
    ({}, {"kind": "encoder_decoder"}, "suits a decoder or encoder"),
    ({}, {"kind": "encoder", "heads": ("masked_lm",)}, "'classification' in model.heads"),
    (
      {"layout": "extract", "language_model_weight": 0.5},
      {"pooling": "last"},
      "needs a decoder with 'language_model'",
    ),
  ],
)
def test_a_model_that_does_not_read_what_the_layout_says_is_refused(chosen, model, message):
  with pytest.raises(UserError, match=message):
    check_suits(Classification(**chosen), "classification", spec_of(**model))


CASES = {
  "pooler": ("classifier", {"kind": "encoder", "token_types": 2}),
  "mean": ("plain", {"kind": "encoder"}),
  "last": ("extract", {"kind": "decoder"}),
}


def case_of(pooling, **more):
  layout, model = CASES[pooling]
  config = config_schema.base()
  config.objective, config.objective_options = (
    "classification",
    options("classification", layout=layout, **more),
  )
  config.model = model_config(
    heads=("classification", *(["language_model"] if more.get("language_model_weight") else [])),
    pooling=pooling,
    d_model=32,
    repeats=1,
    positions="learned",
    max_length=16,
    **model,
  )
  return config


def reader(config):
  """logits(texts, seq_len, seed): of a model of this config; with a seed, as in training."""
  chosen = make(config)
  tokenizer = with_tokens(chosen)
  config.model.update({"vocab_size": tokenizer.vocab_size, "num_classes": 2})
  model = build.build(config.model)
  params = jax.jit(lambda key: build.init_params(model, key))(jax.random.key(0))

  @functools.partial(jax.jit, static_argnames="train")
  def outputs(batch, key, train):
    output, _ = chosen.outputs(model, params, batch, {"dropout": key}, train)
    return output.heads["classification"]

  def logits(texts, seq_len, seed=None):
    records = [{"text": text, "label": "0"} for text in texts]
    batch = chosen.examples(records, tokenizer, ("0", "1"), seq_len)
    return np.asarray(outputs(batch, jax.random.key(seed or 0), seed is not None))

  return logits


def test_pooling_reads_the_first_the_last_or_the_mean_of_what_is_no_padding():
  x_BTD = jnp.array([[1.0, 2, 4, 8, 16], [1, 2, 4, 8, 16]])[..., None]
  segments_BT = jnp.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 0]])
  expected = {"first": [1, 2], "last": [8, 8], "mean": [11 / 3, 14 / 3]}
  for what, values in expected.items():
    np.testing.assert_allclose(pool(x_BTD, segments_BT, what)[:, 0], values, rtol=1e-6)


@pytest.mark.parametrize("pooling", CASES)
def test_padding_changes_nothing_and_the_text_everything(pooling):
  logits, texts = reader(case_of(pooling)), ("ab", "abcd", "bb", "abca")
  short = logits(texts, 6)
  np.testing.assert_allclose(short, logits(texts, 11), atol=1e-5)
  for i in range(4):
    for j in range(i):
      assert np.abs(short[i] - short[j]).max() > 1e-4


def test_left_out_tokens_are_as_if_they_were_not_there_and_frames_stay():
  logits = reader(case_of("last", token_dropout=0.7))
  texts = ["abcd"] * 14  # each leaves out others
  parts = ["a", "b", "c", "d", "ab", "ac", "ad", "bc", "bd", "cd", "abc", "abd", "acd", "bcd"]
  distances = np.abs(logits(texts, 8, seed=0)[:, None] - logits(parts, 8)[None]).max(-1)
  like, which = distances.min(1) < 1e-5, distances.argmin(1)
  assert like.sum() >= 7  # 3 of 4 on average: the others kept all letters or none
  assert len(set(which[like])) >= 4


def test_the_auxiliary_loss_is_the_weighted_mean_of_the_next_tokens():
  config = case_of("last", language_model_weight=0.5)
  chosen = make(config)
  tokenizer = with_tokens(chosen)
  config.model.update({"vocab_size": tokenizer.vocab_size, "num_classes": 2})
  model = build.build(config.model)
  params = jax.jit(lambda key: build.init_params(model, key))(jax.random.key(0))
  rows = [{"text": text, "label": "1"} for text in ("ab", "abcd")]
  batch = chosen.examples(rows, tokenizer, ("0", "1"), 8)
  sums, metrics = jax.jit(lambda b: chosen.loss(model, params, b, {}, False))(batch)
  counts = chosen.count(batch)
  assert sums.keys() == counts.keys() and counts["next_tokens"] == 3 + 5
  heads = jax.jit(lambda b: chosen.outputs(model, params, b, {}, False)[0].heads)(batch)
  nats = -jax.nn.log_softmax(heads["language_model"][:, :-1])
  next_nats = jnp.take_along_axis(nats, batch["tokens"][:, 1:, None], -1)[..., 0]
  expected = next_nats[0, :3].sum() + next_nats[1, :5].sum()
  np.testing.assert_allclose(sums["next_tokens"], 0.5 * expected, rtol=1e-5)
  np.testing.assert_allclose(metrics["language_model_loss"][0], expected, rtol=1e-5)


def test_a_separable_set_is_learned_and_scored(tmp_path, capsys):
  """Whether an x stands in a text, wherever it stands."""
  rng, lines = np.random.default_rng(0), []
  for i in range(80):
    letters = rng.choice(list("abcd"), 5)
    if i % 2:
      letters[rng.integers(5)] = "x"
    lines.append(f"{''.join(letters)}\t{'with' if i % 2 else 'without'}")
  (tmp_path / "letters.tsv").write_text("\n".join(dict.fromkeys(lines)))
  config = case_of("last")
  config.data.path, config.tokenizer.name = str(tmp_path / "letters.tsv"), "byte"
  config.steps, config.batch_size, config.seq_len = 60, 16, 8
  config.data.validation_fraction, config.log.every = 0.2, 30
  result = loop.train(config, tmp_path / "run", progress=False)
  assert result["accuracy"] == 1.0 and "bits_per_byte" not in result
  found = jobs.evaluate(tmp_path / "run")
  assert found["accuracy"] == found["f1"] == found["matthews"] == 1.0
  assert 0.3 < found["baseline"]["accuracy"] < 0.7 and found["examples"] in range(10, 20)
  (tmp_path / "new.tsv").write_text("abx\tneither")
  with pytest.raises(UserError, match="'neither', which no training record has"):
    jobs.evaluate(tmp_path / "run", str(tmp_path / "new.tsv"))
  (tmp_path / "letters.tsv").unlink()
  (tmp_path / "new.tsv").write_text("abx\twith\nabc\twithout")
  command = ["evaluate", f"--workdir={tmp_path / 'run'}", f"--data={tmp_path / 'new.tsv'}"]
  assert command_line.main([*command, f"--json={tmp_path / 'scores.json'}"]) == 0
  found = json.loads((tmp_path / "scores.json").read_text())["scores"]
  assert found["accuracy"] == 1.0 and "baseline" not in found
  assert "letters.tsv" in found["without_training"]
  assert command_line.main([*command, "--window=4"]) == 2
  assert "this run reads records" in capsys.readouterr().err
