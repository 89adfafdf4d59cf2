"""Masked language modelling: which tokens are hidden, how, and that it repeats itself exactly.

Ids of the tests: 0 is the end, 1 the mask, the others are ordinary.
"""

import functools
import itertools
import json
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from ml_collections import ConfigDict

from llm_jax import config as config_schema
from llm_jax.data import pipeline, tokenizers
from llm_jax.data.special_tokens import MASK
from llm_jax.data.tokenizers import Vocabulary
from llm_jax.errors import UserError
from llm_jax.evaluation.perplexity import evaluate
from llm_jax.models import build
from llm_jax.objectives.masked_lm import MaskedLm
from llm_jax.training import inputs, loop

V = 40
OBJECTIVE = MaskedLm()
VOCABULARY = Vocabulary(V, (("<end>", 0), ("[MASK]", 1)))
transform = functools.partial(OBJECTIVE.transform, vocabulary=VOCABULARY)


def row_of(tokens, padding=0, place=0):
  tokens = np.array([*tokens, *[2] * padding], np.int32)
  segments = np.ones(len(tokens), np.int32)
  segments[len(tokens) - padding :] = 0
  key = np.array([5, place, 0], np.uint32)
  return {"tokens": tokens, "segments": segments, "document_ids": segments - 1, "key": key}


rows = st.builds(
  row_of, st.lists(st.integers(0, V - 1), min_size=3, max_size=60), st.integers(0, 9)
)


@hypothesis.given(rows)
@hypothesis.settings(deadline=None, max_examples=100)
def test_special_tokens_and_padding_stay_and_no_token_becomes_special_but_the_mask(row):
  found = transform(row)
  original, chosen = row["tokens"][:-1], found["weights"] > 0
  np.testing.assert_array_equal(found["targets"], original)
  np.testing.assert_array_equal(found["segments"], row["segments"][:-1])
  candidates = (original > 1) & (row["segments"][:-1] > 0)
  assert not (chosen & ~candidates).any()
  np.testing.assert_array_equal(found["tokens"][~chosen], original[~chosen])
  assert (found["tokens"][chosen] >= 1).all()
  assert abs(chosen.sum() - 0.15 * candidates.sum()) < 1


def test_15_percent_are_chosen_of_which_80_are_masked_10_replaced_and_10_kept():
  tokens = np.random.default_rng(0).integers(2, V, 63)
  found = [transform(row_of(tokens, place=place)) for place in range(4000)]
  shown, targets, weights = (
    np.stack([f[k] for f in found]) for k in ("tokens", "targets", "weights")
  )
  chosen = weights > 0
  n = chosen.sum()
  assert chosen.mean() == pytest.approx(0.15, abs=0.001)
  assert np.abs(chosen.mean(0) - 0.15).max() < 0.03  # every place as often, 5 deviations
  masked, kept = (shown == 1)[chosen], (shown == targets)[chosen]
  assert masked.mean() == pytest.approx(0.8, abs=0.01)
  # One of the 38 ordinary tokens that may replace a token is the token itself.
  assert kept.mean() == pytest.approx(0.1 + 0.1 / 38, abs=0.008)
  replacements = np.bincount(shown[chosen][~masked & ~kept], minlength=V)
  assert replacements[:2].sum() == 0
  assert replacements[2:] == pytest.approx(np.full(V - 2, 0.1 * n / (V - 2)), rel=0.35)


def test_whole_words_are_chosen_together_as_often_as_tokens_are():
  """Ids from 20 on go on with the word before them."""
  pieces = ("", "EOS", *(f" {i}" for i in range(2, 20)), *(f"{i}" for i in range(20, V)))
  vocabulary = Vocabulary(V, VOCABULARY.special, pieces=pieces)
  random = np.random.default_rng(0)
  chosen, count, apart = 0, 0, {"segments": [], "a special token": []}
  for place in range(1500):
    row = row_of(random.integers(0, V, random.integers(3, 50)), place=place)
    row["segments"][len(row["segments"]) // 2 :] = 2
    original, segments = row["tokens"][:-1], row["segments"][:-1]
    weights = MaskedLm(whole_words=True).transform(row, vocabulary)["weights"]
    ordinary = original > 1
    inside = (original[1:] >= 20) & ordinary[:-1] & (segments[1:] == segments[:-1])
    assert (weights[1:] == weights[:-1])[inside].all()
    assert weights[~ordinary].sum() == 0
    goes_on = (original >= 20) & ordinary
    border = goes_on[1:] & ordinary[:-1] & (segments[1:] != segments[:-1])
    apart["segments"] += (weights[1:] != weights[:-1])[border].tolist()
    around = goes_on[2:] & ~ordinary[1:-1] & ordinary[:-2]
    apart["a special token"] += (weights[2:] != weights[:-2])[around].tolist()
    chosen, count = chosen + weights.sum(), count + ordinary.sum()
  assert chosen / count == pytest.approx(0.15, abs=0.005)
  for between, found in apart.items():  # two words, of which one alone is chosen a quarter of times
    assert np.mean(found) == pytest.approx(0.255, abs=0.07), between
  with pytest.raises(UserError, match="only the ids are known"):
    MaskedLm(whole_words=True).transform(row, VOCABULARY)


def test_another_rate_chooses_another_share_and_none_or_all_is_refused():
  found = [
    MaskedLm(rate=0.4).transform(row_of(range(2, 38), place=p), VOCABULARY) for p in range(99)
  ]
  assert np.mean([f["weights"] for f in found]) == pytest.approx(0.4, abs=0.01)
  for rate in (0.0, 1.0, -0.1, float("nan")):
    with pytest.raises(UserError, match="rate"):
      MaskedLm(rate=rate)


def test_the_choice_is_the_rows_own_and_another_in_another_epoch():
  tokens = range(2, 40)
  first, again = transform(row_of(tokens)), transform(row_of(tokens))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  for other in (transform(row_of(tokens, place=1)), transform(row_of([3, *range(3, 40)]))):
    assert (other["weights"] != first["weights"]).any()


def test_a_resumed_run_masks_what_it_would_have_on_any_number_of_processes():
  documents = [np.array([0, *np.random.default_rng(d).integers(2, V, 50), 0]) for d in range(5)]

  def make(process_count=1, process_index=0, seed=5, epochs=None):
    return pipeline.make_iterator(
      documents,
      batch_size=4,
      seq_len=9,
      seed=seed,
      pack=True,
      transform=transform,
      process_count=process_count,
      process_index=process_index,
      epochs=epochs,
    )

  whole = list(itertools.islice(make(), 20))  # 7 batches are an epoch
  resumed = make()
  resumed.set_state({**make().get_state(), "batches": 9})
  halves = [list(itertools.islice(make(2, i), 20)) for i in range(2)]
  for name in ("tokens", "weights"):
    np.testing.assert_array_equal(next(make())[name], whole[0][name])
    joined = [np.concatenate([a[name], b[name]]) for a, b in zip(*halves, strict=True)]
    np.testing.assert_array_equal(joined, [batch[name] for batch in whole])
  for batch, expected in zip(itertools.islice(resumed, 5), whole[9:14], strict=True):
    np.testing.assert_array_equal(batch["tokens"], expected["tokens"])
  stored, other = (next(make(seed=seed, epochs=1)) for seed in (5, 6))  # in one order
  np.testing.assert_array_equal(stored["targets"], other["targets"])
  assert (stored["weights"] != other["weights"]).any()
  shown = {}
  for batch in whole:
    for target, seen in zip(batch["targets"], batch["tokens"], strict=True):
      shown.setdefault(target.tobytes(), set()).add(seen.tobytes())
  assert max(map(len, shown.values())) > 1


@pytest.mark.parametrize("name", ["byte", "char", "bpe"])
def test_a_tokenizer_gets_a_mask_and_keeps_it_when_saved(name, tmp_path):
  config = ConfigDict({"name": name, "vocab_size": 265})
  text = ["the cat sat on the mat, and [MASK] stayed there"] * 3
  get = functools.partial(tokenizers.get, config, text, tmp_path)
  plain, made = get(), get(special=OBJECTIVE.SPECIAL_TOKENS)
  made.save(tmp_path)
  for tokenizer in (made, tokenizers.load(tmp_path)):
    vocabulary = tokenizer.vocabulary
    mask = vocabulary.id_of(MASK)
    assert {mask, tokenizer.end_id} == {index for _, index in vocabulary.special}
    assert mask not in tokenizer.encode(text[0])  # its name in a text is ordinary characters
    assert tokenizer.decode([mask, *tokenizer.encode("cat")]) == "cat"
    assert vocabulary.size == tokenizer.vocab_size == max(mask, tokenizer.end_id) + 1
  assert made.vocab_size == (265 if name == "bpe" else plain.vocab_size + 1)
  with pytest.raises(UserError, match="no special token"):
    plain.vocabulary.id_of(MASK)


def test_a_published_tokenizers_own_mask_is_taken(tmp_path):
  from tokenizers import Tokenizer, models

  ids = {"<unk>": 0, "</s>": 1, "<mask>": 2, "cat": 3}
  definition = Tokenizer(models.WordLevel(ids, "<unk>"))
  definition.add_special_tokens(["<unk>", "</s>", "<mask>"])
  definition.save(str(tmp_path / "tokenizer.json"))
  config = ConfigDict({"name": str(tmp_path), "vocab_size": 0})
  made = tokenizers.get(config, [], special=OBJECTIVE.SPECIAL_TOKENS)
  assert made.vocab_size == 4 and made.end_id == 1
  assert made.vocabulary.id_of(MASK) == 2
  assert {index for _, index in made.vocabulary.special} == {0, 1, 2}


def tiny_bert():
  config = config_schema.load(f"{config_schema.EXPERIMENTS / 'bert.py'}:tiny", [])
  config.model.vocab_size = V
  return config


def test_the_loss_is_the_mean_over_chosen_tokens_of_what_the_model_does_not_see():
  model = build.build(tiny_bert().model)
  params = build.init_params(model, jax.random.key(0))
  examples = [transform(row_of(range(2, 40), 3)), transform(row_of(range(3, 40), 4))]
  batch = {k: jnp.stack([e[k] for e in examples]) for k in examples[0]}
  sums, metrics = OBJECTIVE.loss(model, params, batch, {}, train=False)
  logits = model.apply({"params": params}, batch["tokens"], segments=batch["segments"]).logits
  nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["targets"][..., None], -1)[..., 0]
  chosen = batch["weights"] > 0
  assert 8 < chosen.sum() < 13
  np.testing.assert_allclose(sums["tokens"], nats[chosen].sum(), rtol=1e-5)
  assert metrics["loss"][1] == OBJECTIVE.count(batch)["tokens"] == chosen.sum()


def test_a_run_trains_and_is_evaluated_as_it_was_at_its_end(tmp_path):
  """Bits per byte are of the hidden tokens' share of the bytes."""
  documents = [f"document {i} says that {i} and {i + 1} are {2 * i + 1}. " * 3 for i in range(12)]
  (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": d}) for d in documents))
  config = config_schema.load(f"{config_schema.EXPERIMENTS / 'bert.py'}:tiny", [])
  config.data.path, config.data.validation_fraction = str(tmp_path / "text.jsonl"), 0.2
  config.eval.batches = 0
  result = loop.train(config, tmp_path / "run", progress=False)
  found = evaluate(tmp_path / "run")
  assert found["loss"] == pytest.approx(result["loss"], rel=1e-5)
  assert found["bits_per_byte"] == pytest.approx(result["bits_per_byte"], rel=1e-5)
  # A byte is a token here, and a document has one token more than bytes, its end.
  per_token = found["loss"] / math.log(2)
  assert per_token < found["bits_per_byte"] < 1.02 * per_token


def test_a_decoder_or_an_encoder_without_the_head_is_refused():
  tokenizer = tokenizers.get(ConfigDict({"name": "byte", "vocab_size": 0}), [])
  for change in ({"kind": "decoder"}, {"heads": ("pooler",)}):
    config = tiny_bert()
    config.model.update({"vocab_size": 0, **change})
    with pytest.raises(UserError, match="'masked_lm' suits"):
      inputs.model(config, tokenizer)
