"""Span corruption: what is cut out and how much, and that source and target are the text again.

Ids of the tests: 0 is the end, those from 900 on are sentinels, the others are ordinary.
"""

import functools
import itertools
import types

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from ml_collections import ConfigDict

from llm_jax import config as config_schema
from llm_jax.analysis.flops import flops
from llm_jax.data import pipeline, tokenizers
from llm_jax.data.tokenizers import Vocabulary
from llm_jax.errors import UserError
from llm_jax.models import build
from llm_jax.models.spec import model_config
from llm_jax.objectives.span_corruption import SpanCorruption, corrupt
from llm_jax.training import loop
from llm_jax.training.meter import Meter

V, SENTINELS, FIRST = 1000, 100, 999  # the first sentinel is the last id
NAMED = tuple((f"<extra_id_{i}>", FIRST - i) for i in range(SENTINELS))
VOCABULARY = Vocabulary(V, (("<end>", 0), *NAMED))
OBJECTIVE = SpanCorruption()
transform = functools.partial(OBJECTIVE.transform, vocabulary=VOCABULARY)


def row_of(*documents, padding=0, place=0):
  """A stored row of framed documents; the token behind the last pair is an end."""
  parts = [[0, *document, 0] for document in documents]
  numbers = [d for d, part in enumerate(parts) for _ in part] + [-1] * padding
  tokens = np.array([*itertools.chain(*parts), *[0] * padding, 0], np.int32)
  document_ids = np.array([*numbers, numbers[-1]], np.int32)
  key = np.array([5, place, 0], np.uint32)
  ids = {"segments": document_ids + 1, "document_ids": document_ids}
  return {"tokens": tokens, **ids, "key": key}


def pairs_of(example):
  """(source, target) of each segment."""
  for segment in np.unique(example["segments"][example["segments"] > 0]):
    here = [example[name] == segment for name in ("segments", "target_segments")]
    yield example["tokens"][here[0]].tolist(), example["targets"][here[1]].tolist()


def restored(source, target):
  """The text, and the length of each span: the target's spans put in the sentinels' places."""
  assert source[-1] == target[-1] == 0
  spans, text = {}, []
  for token in target[:-1]:
    if token >= V - SENTINELS:
      assert token == FIRST - len(spans)  # each once, downwards
      spans[token] = span = []
    else:
      span.append(token)
  for token in source[:-1]:
    text += spans.get(token, [token])
  return text, [len(span) for span in spans.values()]


document = st.lists(st.integers(1, V - SENTINELS - 1), max_size=90)


@hypothesis.given(st.lists(document, min_size=1, max_size=3), st.integers(0, 9), st.integers(0, 9))
@hypothesis.settings(deadline=None, max_examples=200)
def test_source_and_target_are_the_text_again(documents, padding, place):
  row = row_of(*documents, padding=padding, place=place)
  example = transform(row)
  assert len(example["tokens"]) == len(row["tokens"]) - 1
  assert len(example["targets"]) == len(example["tokens"]) // 4 + 8
  np.testing.assert_array_equal(example["weights"], example["target_segments"] > 0)
  assert (np.diff(example["segments"][example["segments"] > 0]) >= 0).all()
  np.testing.assert_array_equal(example["document_ids"], example["segments"] - 1)
  pairs = list(pairs_of(example))
  assert example["left_out"] == len(documents) - len(pairs)
  texts = iter(documents)
  for source, target in pairs:
    text = restored(source, target)[0]
    assert text in texts  # in their order, and none in part
    found, lengths = restored(source, target)
    assert found == text
    noise = min(max(round(0.15 * len(text)), 1), len(text) - 1)
    assert sum(lengths) == noise and min(lengths) >= 1
    assert len(lengths) == min(max(round(noise / 3), 1), len(text) - noise)
    assert source[0] == text[0]  # a part that stays, then a span, and so on to a last span
    assert source[-2] >= V - SENTINELS


def test_15_percent_are_cut_out_in_spans_of_3_tokens_wherever_they_may_be():
  text = list(range(1, 201))
  lengths, cut = [], np.zeros(201)
  for place in range(1500):
    [(source, target)] = pairs_of(transform(row_of(text, place=place)))
    found, spans = restored(source, target)
    assert found == text
    lengths += spans
    cut[[token for token in target if 0 < token <= 200]] += 1
  assert len(lengths) == 1500 * 10 and sum(lengths) == 1500 * 30
  # Sums of 10 positive parts that make 30 are equally likely: C(28, 8) of C(29, 9) begin with 1.
  histogram = np.bincount(lengths) / len(lengths)
  expected = [0.0, 9 / 29, 9 / 29 * 20 / 28, 9 / 29 * 20 / 28 * 19 / 27]
  np.testing.assert_allclose(histogram[:4], expected, atol=0.015)
  assert cut[1] == 0 and cut[200] == 1500
  middle = cut[40:160] / 1500  # away from the ends every token goes as often, within 5 deviations
  assert abs(middle.mean() - 0.15) < 0.02
  assert np.abs(middle - middle.mean()).max() < 5 * np.sqrt(0.15 * 0.85 / 1500)


def test_where_many_short_texts_need_more_places_than_there_are_whole_ones_are_left_out():
  texts = [[10 * i + 1, 10 * i + 2, 10 * i + 3] for i in range(21)]
  example = transform(row_of(*texts))
  pairs = list(pairs_of(example))
  places = len(example["targets"])
  assert places % 3 and len(pairs) == places // 3 and example["left_out"] == 21 - len(pairs)
  assert [restored(*pair)[0] for pair in pairs] == texts[: len(pairs)]
  batch = {"weights": example["weights"][None], "segments": example["segments"][None]}
  assert OBJECTIVE.count(batch)["tokens"] == 3 * len(pairs)


def test_a_long_text_has_longer_spans_rather_than_more_than_there_are_sentinels():
  text = (np.arange(4000) % 800 + 1).tolist()
  [(source, target)] = pairs_of(transform(row_of(text)))
  found, lengths = restored(source, target)
  assert found == text and len(lengths) == SENTINELS and sum(lengths) == 600


def test_the_spans_are_the_rows_own_and_others_in_another_epoch():
  first, again = transform(row_of(range(1, 90))), transform(row_of(range(1, 90)))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  for other in (row_of(range(1, 90), place=1), row_of([7, *range(2, 90)])):
    at = [np.flatnonzero(e["tokens"] >= V - SENTINELS) for e in (first, transform(other))]
    assert at[0].tolist() != at[1].tolist()


def test_a_resumed_run_cuts_what_it_would_have():
  documents = [np.array([0, *np.random.default_rng(d).integers(1, 800, 70), 0]) for d in range(4)]
  make = lambda: pipeline.make_iterator(
    documents, batch_size=2, seq_len=40, seed=3, pack=True, transform=transform
  )
  whole = list(itertools.islice(make(), 12))
  resumed = make()
  resumed.set_state({**make().get_state(), "batches": 7})
  for batch, expected in zip(itertools.islice(resumed, 5), whole[7:], strict=True):
    jax.tree.map(np.testing.assert_array_equal, batch, expected)


def test_a_tokenizer_gets_sentinels_of_which_the_first_is_the_last_id():
  config = ConfigDict({"name": "byte", "vocab_size": 0})
  made = tokenizers.get(config, [], special=OBJECTIVE.SPECIAL_TOKENS)
  assert made.vocab_size == 257 + SENTINELS
  text = made.encode("abcdefghijklmnopqrstuvwxyz")
  source, target = corrupt(text, made.vocabulary, np.random.RandomState(0))
  assert target[0] == made.vocab_size - 1 and target[-1] == made.end_id
  assert set(source) & set(target) == {made.vocab_size - 1, made.end_id}


def test_a_begin_token_that_is_not_the_end_stands_before_each_source():
  vocabulary = Vocabulary(V, (("<end>", 0), ("<begin>", 1), *NAMED), 0, 1)
  row = row_of(range(2, 40), range(40, 50))
  row["tokens"][[0, 40]] = 1
  example = OBJECTIVE.transform(row, vocabulary)
  found = list(pairs_of(example))
  assert [source[0] for source, _ in found] == [1, 1]
  texts = [restored(source[1:], target)[0] for source, target in found]
  assert texts == [list(range(2, 40)), list(range(40, 50))]


def test_the_flops_of_a_run_are_those_of_targets_as_short_as_they_are(tmp_path):
  config = config_schema.load(f"{config_schema.EXPERIMENTS / 't5.py'}:tiny", [])
  run = loop.Run(config, tmp_path)
  batch = {name: x for name, x in next(run.batches.train).items() if name != "document_ids"}
  params = build.abstract_params(run.model)
  loss = lambda params: OBJECTIVE.loss(run.model, params, batch, {}, train=True)[0]["tokens"]
  tokens = config.batch_size * config.seq_len
  counted = flops(jax.value_and_grad(loss), params) / tokens
  assert run.flops_per_token == pytest.approx(counted, rel=0.05)


def test_texts_of_which_nothing_can_be_cut_out_are_refused_and_not_scored_as_perfect(tmp_path):
  config = config_schema.load(f"{config_schema.EXPERIMENTS / 't5.py'}:tiny", [])
  (tmp_path / "text.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n' * 20)
  config.data.path = str(tmp_path / "text.jsonl")
  run = loop.Run(config, tmp_path)
  validation = list(run.batches.validation())
  assert sum(rows["weights"].sum() for rows in validation) == 0
  assert all((rows["left_out"] > 0).any() for rows in validation)
  run.strategy = types.SimpleNamespace(
    put=lambda rows: rows,
    evaluate=lambda state, rows: {"loss": (0.0, float(rows["weights"].sum()))},
  )
  with pytest.raises(UserError, match="holds nothing to predict"):
    Meter(run, None, {"tokens": 0, "seconds": 0.0}).validate(1, None)


def test_a_target_begins_with_the_start_token_and_each_of_its_tokens_is_predicted():
  example = transform(row_of(range(1, 30), range(300, 340), padding=3))
  batch = {name: x[None] for name, x in example.items() if name != "document_ids"}
  logits_BUV = np.random.default_rng(0).normal(size=(1, len(example["targets"]), V))

  class Model:
    spec = types.SimpleNamespace(decoder_start_id=7)

    def apply(self, variables, source, target, source_segments, target_segments, **options):
      np.testing.assert_array_equal(source, batch["tokens"])
      np.testing.assert_array_equal(source_segments, batch["segments"])
      segments, targets = example["target_segments"], example["targets"]
      for segment in (1, 2):
        read, said = np.asarray(target)[0, segments == segment], targets[segments == segment]
        assert read.tolist() == [7, *said[:-1]]
      np.testing.assert_array_equal(target_segments, batch["target_segments"])
      return types.SimpleNamespace(logits=jnp.asarray(logits_BUV, jnp.float32)), {}

  batch = jax.tree.map(jnp.asarray, batch)
  sums, metrics = OBJECTIVE.loss(Model(), {}, batch, {}, train=False)
  log_probs_UV = jax.nn.log_softmax(logits_BUV[0].astype(np.float32))
  nats_U = -log_probs_UV[np.arange(len(example["targets"])), example["targets"]]
  assert float(sums["tokens"]) == pytest.approx(float((nats_U * example["weights"]).sum()))
  assert metrics["loss"][1] == (example["target_segments"] > 0).sum()


def test_packed_pairs_are_separate_pairs():
  model = build.build(
    model_config(
      kind="encoder_decoder",
      vocab_size=V,
      d_model=32,
      pattern=("attention", "cross_attention", "mlp"),
      repeats=1,
      encoder_repeats=1,
      positions="sinusoidal",
    )
  )
  params = jax.jit(functools.partial(build.init_params, model))(jax.random.key(0))
  packed = transform(row_of(range(1, 30), range(300, 340), padding=3))
  pairs = list(pairs_of(packed))
  assert len(pairs) == 2

  def alone(source, target):
    example = {name: np.zeros_like(values) for name, values in packed.items()}
    for name, values in (("tokens", source), ("targets", target)):
      segments = {"tokens": "segments", "targets": "target_segments"}[name]
      example[name][: len(values)], example[segments][: len(values)] = values, 1
    return example | {"weights": (example["target_segments"] > 0).astype(np.float32)}

  @jax.jit
  def nats(batch):
    return OBJECTIVE.loss(model, params, batch, {}, train=False)[0]["tokens"]

  def total(*examples):
    return float(nats({name: np.stack([e[name] for e in examples]) for name in packed}))

  nothing = {name: np.zeros_like(values) for name, values in packed.items()}
  assert total(packed, nothing) == pytest.approx(total(*[alone(*pair) for pair in pairs]), rel=1e-5)
