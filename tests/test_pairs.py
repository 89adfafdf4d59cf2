"""Pairs in rows, and sequence to sequence: each pair once, none sees another, a copy is learned."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from llm_jax import objective
from llm_jax.config import base
from llm_jax.data import pairs, tokenizers
from llm_jax.data.records import Records
from llm_jax.errors import UserError
from llm_jax.evaluation import translation
from llm_jax.models import build
from llm_jax.models.spec import model_config
from llm_jax.training import inputs, strategies
from llm_jax.training.runs import Trained

BYTES = tokenizers.get(ConfigDict({"name": "byte", "vocab_size": 0}), [])


def pair(source, target):
  return {"source": source, "target": target}


@settings(max_examples=60, deadline=None)
@given(
  sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=200),
  seed=st.integers(0, 99),
)
def test_packing_keeps_every_pair_once_whole_and_under_one_number_in_both_parts(sizes, seed):
  random = np.random.default_rng(seed)
  parts = [[random.integers(1, 99, size[k]).tolist() for size in sizes] for k in (0, 1)]
  packed = pairs.pack(parts, (9, 6))
  seen = []
  for row in range(len(packed[0]["tokens"])):
    sources, targets = ({name: array[row] for name, array in part.items()} for part in packed)
    segments = set(sources["segments"].tolist()) - {0}
    assert segments == set(targets["segments"].tolist()) - {0}
    for segment in segments:
      (number,) = set(sources["document_ids"][sources["segments"] == segment].tolist())
      for part, ids in zip((sources, targets), parts, strict=True):
        here = part["segments"] == segment
        assert part["tokens"][here].tolist() == ids[number]
        assert set(part["document_ids"][here].tolist()) == {number}
        assert np.ptp(np.flatnonzero(here)) + 1 == here.sum()  # side by side
      seen.append(number)
  assert sorted(seen) == list(range(len(sizes)))
  for part in packed:
    assert (part["document_ids"][part["segments"] == 0] == -1).all()


def test_rows_are_nearly_full():
  random = np.random.default_rng(0)
  sizes = random.integers(8, 30, (2000, 2))
  packed = pairs.pack([[[1] * n for n in sizes[:, k]] for k in (0, 1)], (128, 128))
  assert (packed[0]["segments"] > 0).mean() > 0.9
  whole = pairs.pack([[[1] * 4] * 2] * 2, (8, 8))
  assert whole[0]["segments"].tolist() == [[1] * 4 + [2] * 4]


def test_a_source_is_framed_and_the_target_ends_and_weighs_one_at_each_token():
  chosen = objective.make(_config())
  arrays = chosen.examples([pair("ab", "c"), pair("d", "ef")], BYTES, (), 8)
  end, ids = BYTES.end_id, BYTES.encode
  assert arrays["tokens"].tolist() == [[*ids("ab"), end, *ids("d"), end, 0, 0, 0]]
  assert arrays["targets"].tolist() == [[*ids("c"), end, *ids("ef"), end, 0, 0, 0]]
  row = chosen.transform({name: array[0] for name, array in arrays.items()})
  assert row["weights"].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
  assert row["segments"].tolist() == [1, 1, 1, 2, 2, 0, 0, 0]
  assert row["target_segments"].tolist() == [1, 1, 2, 2, 2, 0, 0, 0]


@pytest.mark.parametrize(
  ("records", "message"),
  [
    ([pair("a", "b"), pair("", "b")], "Record 2 .* has no source"),
    ([pair("a", " \n")], r"Record 1 \(source 'a'\) has no target"),
    ([pair("a", None)], "has no target: expected a text, found None"),
    ([pair("a" * 8, "b")], "Record 1 .* 9 and 2 tokens, and a row has room for 8 and 8"),
    ([pair("a", "b" * 8)], "2 and 9 tokens"),
  ],
)
def test_a_bad_record_is_named(records, message):
  with pytest.raises(UserError, match=message):
    objective.make(_config()).examples(records, BYTES, (), 8)


def test_a_bad_record_is_named_with_the_part_it_is_in():
  part = Records("pairs.tsv (training)", [pair("a", "")], "")
  with pytest.raises(UserError, match=r"pairs.tsv \(training\): Record 1 \(source 'a'\)"):
    inputs.table(objective.make(_config()), part, BYTES, (), 8)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"label_smoothing": 1.0}, "label_smoothing"),
    ({"target_ratio": 0.0}, "target_ratio"),
    ({"too_long": "refuse"}, "too_long"),
  ],
)
def test_a_bad_option_is_named(options, message):
  with pytest.raises(UserError, match=message):
    objective.make(_config(**options))


def test_a_long_pair_is_dropped_or_cut_if_asked_for():
  records = [pair("abcdefghij", "k"), pair("l", "m")]
  dropped = objective.make(_config(too_long="drop")).examples(records, BYTES, (), 8)
  assert set(dropped["document_ids"].ravel().tolist()) == {-1, 1}
  cut = objective.make(_config(too_long="cut")).examples(records, BYTES, (), 8)
  assert cut["tokens"][0].tolist() == [*BYTES.encode("abcdefg"), BYTES.end_id]
  with pytest.raises(UserError, match="No pair is left"):
    objective.make(_config(too_long="drop")).examples(records[:1], BYTES, (), 8)


def test_pairs_of_one_row_do_not_see_each_other():
  config = _config()
  model, chosen = build.build(config.model), objective.make(config)
  params = build.init_params(model, jax.random.key(0))
  logits = jax.jit(lambda batch: objective.answer(model, params, batch, {}, False)[0].logits)
  batch = lambda records: {
    k: np.asarray(v) for k, v in chosen.examples(records, BYTES, (), 16).items()
  }
  one, other = (logits(batch([pair("abc", "cba"), pair(s, "yx")])) for s in ("xyz", "pqr"))
  np.testing.assert_allclose(one[0, :4], other[0, :4], atol=1e-6)
  assert np.abs(one[0, 4:7] - other[0, 4:7]).max() > 1e-3


def test_copying_is_learned_to_near_zero_loss():
  config = _config()
  model, chosen = build.build(config.model), objective.make(config)
  random = np.random.default_rng(0)
  words = ["".join(random.choice(list("abcd"), 3)) for _ in range(64)]
  arrays = chosen.examples([pair(word, word) for word in words], BYTES, (), 32)
  rows = [chosen.transform({k: v[i] for k, v in arrays.items()}) for i in range(8)]
  batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
  strategy = strategies.make(config, model, chosen, jax.devices()[:1])
  state = strategy.init(jax.random.PRNGKey(0))
  for _ in range(config.steps):
    state, metrics = strategy.step(state, strategy.put(batch))
  assert metrics["loss"] < 0.05
  params = jax.tree.map(np.asarray, strategy.to_checkpoint(state).params)
  run = Trained(config, BYTES, model, params, (), "")
  found = translation.scores(run, [pair(word, word) for word in words[:9]], num_beams=2)
  assert found["chrf"] == 100 and "nrefs:1" in found["bleu_signature"]
  assert [sample["answer"] for sample in found["samples"]] == words[:3]
  with pytest.raises(UserError, match=r"Record 2 \(source 'b'\) has no target"):
    translation.scores(run, [pair("a", "a"), pair("b", "")])
  with pytest.raises(UserError, match="num_beams must be at least 1, found 0"):
    translation.scores(run, [pair("a", "a")], num_beams=0)


def _config(**options):
  config = base()
  config.objective, config.steps, config.seq_len = "sequence_to_sequence", 120, 32
  config.objective_options = objective.options("sequence_to_sequence")
  config.objective_options.update(options)
  config.optimizer.learning_rate = 1e-2
  config.model = model_config(
    kind="encoder_decoder",
    vocab_size=BYTES.vocab_size,
    d_model=32,
    pattern=("attention", "cross_attention", "mlp"),
    repeats=1,
    encoder_repeats=1,
    layers={"attention": {"positions": "rope"}},
  )
  return config
