"""The prefix language model: where its prefixes end, and that nothing of what is predicted is seen.

Ids of the tests: 0 is the end, the others are ordinary.
"""

import collections
import functools
import types

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from ml_collections import ConfigDict

from llm_jax.data import tokenizers
from llm_jax.models import build
from llm_jax.models.spec import model_config
from llm_jax.objectives.prefix_lm import PrefixLm

V = 50
OBJECTIVE = PrefixLm()


def row_of(*lengths, padding=0, place=0):
  """A stored row of documents of so many tokens."""
  segments = np.repeat([*range(1, len(lengths) + 1), 0], [*lengths, padding]).astype(np.int32)
  tokens = (np.arange(len(segments)) * 7 % (V - 1) + 1).astype(np.int32)
  key = np.array([5, place, 0], np.uint32)
  return {"tokens": tokens, "segments": segments, "document_ids": segments - 1, "key": key}


@hypothesis.given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(0, 5))
@hypothesis.settings(deadline=None, max_examples=200)
def test_of_each_document_a_first_part_is_the_prefix_and_all_behind_it_is_predicted(
  lengths, padding
):
  row = row_of(*lengths, 2, padding=padding)
  found = OBJECTIVE.transform(row)
  for segment in range(1, len(lengths) + 2):
    here = np.flatnonzero(row["segments"] == segment)
    inputs = here[here < len(found["tokens"])]
    prefix = found["prefix"][inputs]
    size = prefix.sum() + 1
    assert (prefix == (np.arange(len(inputs)) < size - 1)).all()
    predicted = here[:-1] + 1 >= here[0] + size if len(here) > 1 else np.zeros(0, bool)
    np.testing.assert_array_equal(found["weights"][here[:-1]], predicted)
    assert len(here) == 1 or predicted.any()
    if len(here) > 1 and here[-1] < len(found["weights"]):
      assert found["weights"][here[-1]] == 0  # its target is another document's
  assert found["weights"][row["segments"][:-1] == 0].sum() == 0
  assert not found["prefix"][row["segments"][:-1] == 0].any()


def test_every_split_of_a_document_is_equally_likely_and_the_rows_own():
  sizes = [
    OBJECTIVE.transform(row_of(12, 3, place=p))["prefix"][:12].sum() + 1 for p in range(5500)
  ]
  counted = collections.Counter(int(size) for size in sizes)
  assert sorted(counted) == list(range(1, 12))
  assert max(abs(n - 500) for n in counted.values()) < 5 * np.sqrt(500)
  again = [OBJECTIVE.transform(row_of(12, 3, place=p))["prefix"][:12].sum() + 1 for p in range(50)]
  assert again == sizes[:50]


def test_a_prompt_is_the_beginning_of_a_document():
  tokenizer = tokenizers.get(ConfigDict({"name": "byte", "vocab_size": 0}), [])
  [document] = tokenizer.encode_documents(["abcd"])
  assert OBJECTIVE.prompt("ab", tokenizer) == document[:3].tolist()


@pytest.mark.parametrize("pattern", [("attention", "mlp"), ("gru", "mlp")])
def test_the_prefix_is_read_both_ways_where_a_layer_can_and_no_target_is_seen(pattern):
  config = model_config(vocab_size=V, d_model=32, repeats=2, pattern=pattern)
  model = build.build(config)
  params = jax.jit(functools.partial(build.init_params, model))(jax.random.key(0))
  example = OBJECTIVE.transform(row_of(13, 8, place=3))
  size = int(example["prefix"][:13].sum()) + 1
  assert 3 < size < 11
  segments, prefix = (jnp.asarray(example[name][None]) for name in ("segments", "prefix"))

  def output(table_VD, place):
    """A number of what comes out at a place; the token of each place is its number."""
    changed = {**params, "embed": {**params["embed"], "tokens": table_VD}}
    places = jnp.arange(segments.shape[1])[None]
    found = model.apply({"params": changed}, places, segments=segments, prefix=prefix)
    return jnp.sum(found.hidden[0, place] ** 3)

  gradient = jax.jit(jax.grad(output))

  def reads(place):
    found_VD = gradient(params["embed"]["tokens"], place)
    return np.flatnonzero(np.abs(found_VD).max(1) > 0).tolist()

  both_ways = "attention" in pattern
  assert reads(0) == (list(range(size - 1)) if both_ways else [0])
  for place in (size - 2, size - 1, size + 1):
    assert reads(place) == list(range(place + 1))
  assert reads(14)[0] == 13  # another document


def test_the_loss_is_the_mean_over_what_is_behind_the_prefix():
  examples = [OBJECTIVE.transform(row_of(13, 8, place=p)) for p in range(2)]
  batch = {k: jnp.stack([e[k] for e in examples]) for k in examples[0]}
  logits_BTV = np.random.default_rng(0).normal(size=(2, 20, V)).astype(np.float32)

  class Model:
    def apply(self, variables, tokens, segments, prefix, **options):
      for given, name in ((tokens, "tokens"), (segments, "segments"), (prefix, "prefix")):
        np.testing.assert_array_equal(given, batch[name])
      return types.SimpleNamespace(logits=jnp.asarray(logits_BTV)), {}

  sums, metrics = OBJECTIVE.loss(Model(), {}, batch, {}, train=False)
  log_probs_BTV = np.asarray(jax.nn.log_softmax(logits_BTV))
  nats_BT = -np.take_along_axis(log_probs_BTV, np.asarray(batch["targets"])[..., None], -1)[..., 0]
  chosen_BT = np.asarray(batch["weights"]) > 0
  np.testing.assert_allclose(sums["tokens"], nats_BT[chosen_BT].sum(), rtol=1e-5)
  assert metrics["loss"][1] == OBJECTIVE.count(batch)["tokens"] == chosen_BT.sum()
