"""Next sentence prediction: two parts of a passage, or one of them from another document."""

import itertools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from llm_jax import config as config_schema
from llm_jax.data import pipeline, tokenizers
from llm_jax.data.packing import Examples
from llm_jax.errors import UserError
from llm_jax.evaluation.perplexity import evaluate
from llm_jax.models import build
from llm_jax.models.spec import model_config
from llm_jax.objective import check_suits
from llm_jax.objectives.masked_lm_next_sentence import MaskedLmNextSentence
from llm_jax.training import loop

OBJECTIVE = MaskedLmNextSentence()
DOCUMENTS = [
  "".join(f"{letter * (3 + i % 4)}. " for i in range(9 + d)) for d, letter in enumerate("abcdef")
]
T = 24


def tokenizer():
  config = ConfigDict({"name": "byte", "vocab_size": 0})
  return tokenizers.get(config, [], special=OBJECTIVE.SPECIAL_TOKENS)


BYTES = tokenizer()
MADE = OBJECTIVE.examples(DOCUMENTS, BYTES, (), T)
MASK, CLS, SEP = (BYTES.vocabulary.id_of(names) for names in OBJECTIVE.SPECIAL_TOKENS)


def row(index, place=0):
  key = np.array([5, place, 0], np.uint32)
  return {name: array[index] for name, array in MADE.items()} | {"key": key}


def parts(example):
  """The original tokens of both parts."""
  shown = np.where(example["weights"] > 0, example["targets"], example["tokens"])
  shown = shown[example["segments"] > 0].tolist()
  assert shown[0] == CLS and shown[-1] == SEP and shown.count(SEP) == 2
  cut = shown.index(SEP)
  sides = example["token_types"][: len(shown)].tolist()
  assert sides == [0] * (cut + 1) + [1] * (len(shown) - cut - 1)
  return BYTES.decode(shown[1:cut]), BYTES.decode(shown[cut + 1 : -1])


def test_the_passages_are_the_documents():
  for number, document in enumerate(DOCUMENTS):
    here = np.flatnonzero(MADE["document_ids"] == number)
    text = [MADE["tokens"][i, : MADE["lengths"][i]] for i in here]
    assert BYTES.decode(np.concatenate(text)) == document
    sizes = MADE["lengths"][here]
    assert sizes.max() <= T - 3 and np.ptp(sizes) <= 1


def test_half_of_the_second_parts_follow_and_the_others_are_of_another_document():
  follows = []
  for place, index in itertools.product(range(60), range(len(MADE["lengths"]))):
    example = OBJECTIVE.transform(row(index, place), BYTES.vocabulary)
    passage = BYTES.decode(MADE["tokens"][index, : MADE["lengths"][index]])
    first, second = parts(example)
    assert first and second and passage.startswith(first)
    follows.append(example["next_sentence"] == 0)
    if follows[-1]:
      assert first + second == passage
    else:
      assert len(second) <= len(passage) - len(first)
      assert second.strip(". ")[:1] != DOCUMENTS[MADE["document_ids"][index]][0]
    if "." in passage[:-1].rstrip(". "):
      assert first.endswith(".")
  assert np.mean(follows) == pytest.approx(0.5, abs=0.03)


def test_15_percent_of_both_parts_are_to_be_predicted_and_none_of_the_marks_between_them():
  found = [OBJECTIVE.transform(row(i, p), BYTES.vocabulary) for i in range(8) for p in range(300)]
  chosen, targets, sides = (
    np.stack([f[name] for f in found]) for name in ("weights", "targets", "token_types")
  )
  ordinary = np.stack([f["segments"] for f in found]) * ~np.isin(targets, (CLS, SEP))
  assert chosen[ordinary == 0].sum() == 0
  for side in (0, 1):
    rate = chosen[sides == side].sum() / ordinary[sides == side].sum()
    assert rate == pytest.approx(0.15, abs=0.01)


def test_batches_repeat_themselves_and_padding_counts_for_nothing():
  make = lambda epochs: pipeline.make_iterator(
    Examples(MADE),
    batch_size=4,
    seq_len=T,
    seed=1,
    pack=True,
    transform=lambda r: OBJECTIVE.transform(r, BYTES.vocabulary),
    epochs=epochs,
  )
  whole, resumed = list(itertools.islice(make(None), 6)), make(None)
  resumed.set_state({**make(None).get_state(), "batches": 4})
  jax.tree.map(np.testing.assert_array_equal, next(resumed), whole[4])
  last = list(make(1))[-1]
  unused = -len(MADE["lengths"]) % 4
  assert unused and last["segments"][-unused:].sum() == last["weights"][-unused:].sum() == 0


def test_the_loss_is_the_sum_of_both_tasks():
  found = [OBJECTIVE.transform(row(i), BYTES.vocabulary) for i in range(5)]
  empty = {name: np.zeros_like(x) for name, x in found[0].items()}
  batch = {name: jnp.stack([e[name] for e in (*found, empty)]) for name in empty}
  random = np.random.default_rng(0)
  logits_BTV = random.normal(size=(6, T, BYTES.vocab_size)).astype(np.float32)
  pairs_B2 = random.normal(size=(6, 2)).astype(np.float32)

  class Model:
    def apply(self, variables, tokens, segments, token_types, **options):
      for given, name in ((tokens, "tokens"), (segments, "segments"), (token_types, "token_types")):
        np.testing.assert_array_equal(given, batch[name])
      heads = {"next_sentence": jnp.asarray(pairs_B2)}
      return types.SimpleNamespace(logits=jnp.asarray(logits_BTV), heads=heads), {}

  sums, metrics = OBJECTIVE.loss(Model(), {}, batch, {}, train=False)
  answers = np.asarray(batch["next_sentence"])[:5]
  nats_B = -np.asarray(jax.nn.log_softmax(pairs_B2))[np.arange(5), answers]
  assert float(sums["rows"]) == pytest.approx(float(nats_B.sum()), rel=1e-5)
  assert metrics["next_sentence_accuracy"][1] == OBJECTIVE.count(batch)["rows"] == 5
  assert metrics["next_sentence_accuracy"][0] == (pairs_B2[:5].argmax(1) == answers).sum()
  log_probs_BTV = np.asarray(jax.nn.log_softmax(logits_BTV))
  nats_BT = -np.take_along_axis(log_probs_BTV, np.asarray(batch["targets"])[..., None], -1)[..., 0]
  expected = float((nats_BT * np.asarray(batch["weights"])).sum())
  assert float(sums["tokens"]) == pytest.approx(expected, rel=1e-5)


def test_a_run_is_evaluated_as_it_was_at_its_end(tmp_path):
  (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": d}) for d in DOCUMENTS))
  experiment = config_schema.EXPERIMENTS / "masked" / "bert_shakespeare.py"
  config = config_schema.load(f"{experiment}:tiny", [])
  config.data.path, config.data.validation_fraction = str(tmp_path / "text.jsonl"), 0.4
  config.eval.batches = 0
  result = loop.train(config, tmp_path / "run", progress=False)
  found = evaluate(tmp_path / "run")
  assert "bits_per_byte" not in result
  for name in ("loss", "accuracy", "next_sentence_loss", "next_sentence_accuracy"):
    assert found[name] == pytest.approx(result[name], rel=1e-4), name


def test_one_document_short_rows_and_a_model_without_both_heads_are_refused():
  with pytest.raises(UserError, match="another document"):
    OBJECTIVE.examples([*DOCUMENTS[:1], "x"], BYTES, (), T)
  with pytest.raises(UserError, match="seq_len is 4"):
    OBJECTIVE.examples(DOCUMENTS, BYTES, (), 4)
  for change in ({"heads": ("masked_lm",)}, {"token_types": 0}):
    options = {"heads": ("masked_lm", "next_sentence"), "token_types": 2} | change
    spec = build.build(model_config(kind="encoder", vocab_size=9, **options)).spec
    with pytest.raises(UserError, match=r"next_sentence.*token_types=2"):
      check_suits(OBJECTIVE, "masked_lm_next_sentence", spec)
