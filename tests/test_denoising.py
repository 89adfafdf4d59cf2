"""Denoising: how much of a text is damaged, and that what stays is the text.

Ids of the tests: 0 is the end, 1 the mask, 2 ends a sentence, the others are ordinary.
"""

import collections
import functools
import itertools

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from llm_jax import objective
from llm_jax.data import pipeline
from llm_jax.data.tokenizers import Vocabulary
from llm_jax.errors import UserError
from llm_jax.objectives.denoising import Denoising

V = 1000
PIECES = ("<end>", "[MASK]", ".", *(f" {i}" for i in range(3, V)))
VOCABULARY = Vocabulary(V, (("<end>", 0), ("[MASK]", 1)), pieces=PIECES)
NOTHING = {"infilling": 0.0, "sentences": False}
INFILLING = Denoising(sentences=False)


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


def damaged(options, text, place=0):
  random = np.random.RandomState(place)
  return Denoising(**{**NOTHING, **options}).damaged(np.array(text, np.int32), VOCABULARY, random)


document = st.lists(st.integers(2, V - 1), max_size=60)
options = st.fixed_dictionaries(
  {
    "infilling": st.sampled_from([0.0, 0.3, 0.9]),
    "masking": st.sampled_from([0.0, 0.2]),
    "deletion": st.sampled_from([0.0, 0.5]),
    "sentences": st.booleans(),
    "rotation": st.just(True),
  }
)


@hypothesis.given(options, st.lists(document, min_size=1, max_size=3), st.integers(0, 9))
@hypothesis.settings(deadline=None, max_examples=300)
def test_targets_are_the_texts_and_sources_hold_nothing_but_their_tokens_and_masks(
  chosen, documents, place
):
  row = row_of(*documents, padding=place % 3, place=place)
  example = Denoising(**chosen).transform(row, VOCABULARY)
  texts = [text for text in documents if text]
  np.testing.assert_array_equal(example["weights"], example["target_segments"] > 0)
  np.testing.assert_array_equal(example["document_ids"], example["segments"] - 1)
  pairs = list(pairs_of(example))
  assert [target for _, target in pairs] == [[*text, 0] for text in texts]
  for (source, _), text in zip(pairs, texts, strict=True):
    assert source[-1] == 0 and len(source) <= len(text) + 1
    kept = [token for token in source[:-1] if token != 1]
    assert not collections.Counter(kept) - collections.Counter(text)


def test_a_row_inside_of_a_document_has_no_end_and_begin_tokens_stand_before_sources():
  inside = row_of(range(3, 40))
  inside = {name: x[1:38] if name != "key" else x for name, x in inside.items()}
  example = Denoising(**{**NOTHING, "rotation": True}).transform(inside, VOCABULARY)
  [(source, target)] = pairs_of(example)
  assert target == list(range(3, 39)) and sorted(source) == target
  other = Vocabulary(V, (("<end>", 0), ("[MASK]", 1), ("<begin>", 2)), 0, 2, PIECES)
  row = row_of(range(3, 20), range(20, 30))
  row["tokens"][[0, 19]] = 2
  found = list(pairs_of(INFILLING.transform(row, other)))
  assert [source[0] for source, _ in found] == [2, 2]
  assert [target for _, target in found] == [[*range(3, 20), 0], [*range(20, 30), 0]]


def test_30_percent_are_hidden_in_spans_of_poisson_lengths_with_mean_3():
  text, default = list(range(3, 403)), Denoising().infilling
  lengths, hidden, ends = [], [], []
  for place in range(600):
    known = len(lengths)
    source = damaged({"infilling": default}, text, place).tolist()
    kept = [token for token in source if token != 1]
    assert kept == sorted(kept)
    hidden.append(len(text) - len(kept))
    # Between two tokens that stay, masks in a row share what is missing: single ones tell lengths.
    around = [2, *source, 403]
    for before, shown, after in zip(around, around[1:], around[2:], strict=False):
      if shown == 1 and before != 1 != after:
        lengths.append(after - before - 1)
    ends.append((lengths[known], lengths[-1]))
  assert set(hidden) == {120}
  histogram = np.bincount(lengths, minlength=9)[:9] / len(lengths)
  poisson = np.exp(-3) * 3.0 ** np.arange(9) / [1, 1, 2, 6, 24, 120, 720, 5040, 40320]
  np.testing.assert_allclose(histogram, poisson, atol=0.012)
  first, last = np.mean(ends, axis=0)  # the span cut short and the empty ones stand anywhere
  assert first == pytest.approx(last, abs=0.5)
  masks = [np.sum(damaged({"infilling": 0.3}, text, place) == 1) for place in range(200)]
  assert np.mean(masks) == pytest.approx(120 / 3, rel=0.05)


def test_every_token_is_hidden_as_often_and_a_few_tokens_too():
  text = list(range(3, 103))
  shown = np.zeros(103)
  for place in range(2000):
    shown[damaged({"infilling": 0.3}, text, place)] += 1
  middle = shown[15:91] / 2000  # a span that hides an end has fewer places to be
  assert abs(middle.mean() - 0.7) < 0.02
  assert np.abs(middle - middle.mean()).max() < 5 * np.sqrt(0.21 / 2000)
  few = [damaged({"infilling": 0.3}, [7, 8], place) for place in range(2000)]
  assert np.mean([2 - np.sum(found != 1) for found in few]) == pytest.approx(0.6, abs=0.05)


def test_sentences_move_as_wholes_and_in_every_order():
  text = [5, 6, 2, 7, 2, 2, 8]  # of which the second ends with two stops
  orders = collections.Counter(
    tuple(damaged({"sentences": True}, text, p).tolist()) for p in range(1200)
  )
  parts = ((5, 6, 2), (7, 2, 2), (8,))
  expected = {sum(order, ()) for order in itertools.permutations(parts)}
  assert set(orders) == expected and Denoising().sentences
  assert min(orders.values()) > 140


def test_masking_deletion_and_rotation_do_what_they_say():
  text = list(range(3, 203))
  masked = damaged({"masking": 0.2}, text)
  assert len(masked) == 200 and np.sum(masked == 1) == 40
  assert (masked[masked != 1] == np.array(text)[masked != 1]).all()
  deleted = damaged({"deletion": 0.25}, text).tolist()
  assert len(deleted) == 150 and deleted == sorted(deleted)
  assert len(damaged({"deletion": 0.9}, [3, 4])) == 1  # never all of a text
  starts = {int(damaged({"rotation": True}, [3, 4, 5], place)[0]) for place in range(50)}
  turned = damaged({"rotation": True}, text).tolist()
  at = turned.index(3)
  assert starts == {3, 4, 5} and turned[at:] + turned[:at] == text
  both = damaged({"infilling": 0.3, "masking": 0.5}, text)  # of what the spans have left
  assert np.sum(both != 1) == 70


def test_the_damage_is_the_rows_own_and_a_resumed_run_does_what_it_would_have():
  documents = [np.array([0, *np.random.default_rng(d).integers(2, V, 70), 0]) for d in range(4)]
  transform = functools.partial(Denoising().transform, vocabulary=VOCABULARY)
  make = lambda: pipeline.make_iterator(
    documents, batch_size=2, seq_len=40, seed=3, pack=True, transform=transform
  )
  whole = list(itertools.islice(make(), 12))
  resumed = make()
  resumed.set_state({**make().get_state(), "batches": 7})
  for batch, expected in zip(itertools.islice(resumed, 5), whole[7:], strict=True):
    jax.tree.map(np.testing.assert_array_equal, batch, expected)
  first, other = (transform(row_of(range(3, 90), place=p))["tokens"] for p in (0, 1))
  assert (first != other).any()


def test_shares_out_of_range_no_damage_at_all_and_unknown_words_are_refused():
  for wrong in ({"infilling": 1.0}, {"masking": -0.1}, {"deletion": float("nan")}):
    with pytest.raises(UserError, match=next(iter(wrong))):
      Denoising(**wrong)
  with pytest.raises(UserError, match="no damage"):
    Denoising(**NOTHING)
  with pytest.raises(UserError, match=r"infiling.*infilling"):
    objective.options("denoising", infiling=0.1)
  with pytest.raises(UserError, match="only the ids are known"):
    Denoising().transform(row_of(range(3, 9)), Vocabulary(V, VOCABULARY.special))
