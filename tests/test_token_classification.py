"""Token classification: which piece carries a word's tag, and entities scored by hand's count."""

import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from llm_jax import config as config_schema
from llm_jax.data import tokenizers
from llm_jax.errors import UserError
from llm_jax.evaluation import jobs, labelled
from llm_jax.models.spec import model_config
from llm_jax.objective import options
from llm_jax.objectives.token_classification import TokenClassification
from llm_jax.training import loop

TAGS = ("B-place", "I-place", "O")


def rows_of(chosen, seq_len=10, **record):
  tokenizer = tokenizers.get(
    ConfigDict({"name": "byte", "vocab_size": 0}), [], None, chosen.SPECIAL_TOKENS
  )
  record = {"words": ["in", "New", "York"], "tags": ["O", "B-place", "I-place"]} | record
  rows = chosen.examples([record], tokenizer, TAGS, seq_len)
  return {name: array[0] for name, array in rows.items()}, dict(tokenizer.vocabulary.special)


def test_the_first_piece_of_a_word_carries_its_tag():
  row, special = rows_of(TokenClassification(), 14)
  text = [special["[CLS]"], *b"in New York", special["[SEP]"]]
  assert row["tokens"].tolist() == [*text, 0]
  assert row["segments"].tolist() == [1] * 13 + [0]
  # The space before a word is the first of its pieces.
  assert np.flatnonzero(row["weights"]).tolist() == [1, 3, 7]
  assert row["targets"][[1, 3, 7]].tolist() == [2, 0, 1]


def test_of_several_readings_the_first_is_learned_and_all_are_labels():
  tags = ["O", "B-place,B-film", "I-place"]
  chosen = TokenClassification(layout="plain")
  assert chosen.labels([{"tags": tags}]) == ("B-film", *TAGS)
  row, _ = rows_of(chosen, 12, tags=tags)
  assert row["targets"][row["weights"] > 0].tolist() == [2, 0, 1]


def test_a_cut_loses_words_and_an_empty_word_is_the_end_token():
  row, special = rows_of(TokenClassification(layout="plain", too_long="cut"), 5)
  assert row["tokens"].tolist() == [*b"in Ne"] and row["weights"].sum() == 2
  row, special = rows_of(TokenClassification(layout="plain"), words=["", "New", "York"])
  assert row["tokens"][0] == special["<|endoftext|>"] and row["weights"][:2].tolist() == [1, 1]


@pytest.mark.parametrize(
  ("record", "message"),
  [
    ({}, "Record 1 has 11 tokens, and seq_len leaves room for 8"),
    ({"tags": ["O"]}, "Record 1 has 3 words and 1 tags"),
    ({"words": [], "tags": []}, "Record 1 has no words"),
    ({"words": ["a"], "tags": ["B-film"]}, "Record 1 has the label 'B-film'"),
  ],
)
def test_a_record_that_cannot_be_read_is_named(record, message):
  with pytest.raises(UserError, match=message):
    rows_of(TokenClassification(), **record)


@pytest.mark.parametrize("chosen", [{"layout": "extract"}, {"too_long": "drop"}])
def test_options_that_mean_nothing_are_refused(chosen):
  with pytest.raises(UserError, match="objective_options"):
    TokenClassification(**chosen)


def test_the_likeliest_tags_are_valid_and_the_best_of_all_such():
  rng, labels = np.random.default_rng(0), ("B-a", "I-a", "B-b", "I-b", "O")
  grid = np.stack(np.meshgrid(*[range(5)] * 4, indexing="ij"), -1).reshape(-1, 4)
  follows = {1: (0, 1), 3: (2, 3)}
  valid = [
    path
    for path in grid
    if all(
      here not in follows or before in follows[here]
      for before, here in zip([-1, *path], path, strict=False)
    )
  ]
  for _ in range(20):
    logits = rng.normal(size=(4, 5))
    best = max(valid, key=lambda path: logits[np.arange(4), path].sum())
    assert labelled.likeliest(logits, labels) == [labels[c] for c in best]
  assert labelled.likeliest(np.array([[0.0, 9.0, 0, 0, 1]]), labels) == ["O"]
  assert labelled.likeliest(np.array([[0.0, 2.0]]), ("noun", "verb")) == ["verb"]


def test_entities_are_counted_whole_and_each_reading_is_right(monkeypatch):
  """Three entities, of which one is found, one is too long, and one has another kind."""
  records = [
    {"words": ["a", "b", "c"], "tags": ["B-x", "O", "B-x,B-y"]},
    {"words": ["d", "a"], "tags": ["B-x", "O"]},
  ]
  labels = ("B-x", "B-y", "I-x", "O")
  wanted = [["B-x", "I-x", "B-y"], ["B-y", "O"]]
  logits = np.array(
    [[[float(t == label) for label in labels] for t in [*w, "O"][:3]] for w in wanted]
  )
  weights = np.array([[1, 1, 1], [1, 1, 0]])
  monkeypatch.setattr(labelled, "read_off", lambda *_: ({"weights": weights}, logits))
  run = types.SimpleNamespace(
    labels=labels, config=ConfigDict({"objective": "token_classification"})
  )
  training = [{"words": ["a", "a", "a", "c"], "tags": ["B-x", "O", "B-x", "B-x"]}]
  found = labelled.scores(run, records, training)
  # Found: x of two words, y, y; right is the y that is one of two readings.
  assert found["precision"] == found["recall"] == pytest.approx(1 / 3)
  assert found["accuracy"] == pytest.approx(3 / 5)
  # Guessed: x for each a, x for c; of the three entities two are right.
  assert found["baseline"]["precision"] == found["baseline"]["recall"] == pytest.approx(2 / 3)


def test_a_separable_set_is_learned_and_scored(tmp_path):
  """A capital begins an entity; what is all capitals behind it belongs to it."""
  rng, lines = np.random.default_rng(0), []
  for _ in range(60):
    kinds = rng.choice(["ab", "Ab", "Ab CD"], 3)
    words = " ".join(kinds).split()
    tags = {"ab": "O", "Ab": "B-name", "CD": "I-name"}
    lines += [f"{word}\t{tags[word]}" for word in words] + [""]
  (tmp_path / "names.conll").write_text("\n".join(lines))
  config = config_schema.base()
  config.objective, config.objective_options = (
    "token_classification",
    options("token_classification"),
  )
  config.model = model_config(
    kind="encoder", heads=("token_classification",), d_model=32, repeats=1, positions="sinusoidal"
  )
  config.data.path, config.tokenizer.name = str(tmp_path / "names.conll"), "word"
  config.steps, config.batch_size, config.seq_len = 30, 16, 8
  config.data.validation_fraction, config.log.every = 0.2, 30
  loop.train(config, tmp_path / "run", progress=False)
  found = jobs.evaluate(tmp_path / "run")
  assert found["f1"] == found["accuracy"] == found["baseline"]["f1"] == 1.0
  (tmp_path / "new.conll").write_text("Ab\tB-name\nCD\tI-name\nAb\tO\n")
  found = jobs.evaluate(tmp_path / "run", str(tmp_path / "new.conll"))
  assert found["recall"] == 1.0 and found["precision"] == 0.5 and found["examples"] == 1
