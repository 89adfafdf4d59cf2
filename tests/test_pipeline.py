"""Packing and order: every pair once an epoch, no pair across a border, every resume exact.

Documents are made so that a token tells where it stands: the n-th token of document d of the
test is 1000 (d + 1) + n, and 0 is the end.
"""

import collections
import itertools
import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from llm_jax.data import packing
from llm_jax.data.pipeline import make_iterator
from llm_jax.errors import UserError

lengths = st.lists(st.integers(0, 30), min_size=1, max_size=12)


def framed(lengths, first=0):
  return [
    np.array([0, *(1000 * (d + 1) + np.arange(n)), 0], np.int32)
    for d, n in enumerate(lengths, start=first)
  ]


def rows_of(documents, *, batch_size=2, seq_len=7, seed=0, pack=True, take=None, **options):
  iterator = make_iterator(
    documents,
    batch_size=batch_size,
    seq_len=seq_len,
    seed=seed,
    pack=pack,
    transform=dict,
    **options,
  )
  for batch in itertools.islice(iterator, take):
    assert batch["tokens"].shape == (batch_size // options.get("process_count", 1), seq_len + 1)
    yield from (
      {key: value[r] for key, value in batch.items()} for r in range(len(batch["tokens"]))
    )


def weighted_pairs(rows):
  """(document, input, target) of each pair inside one segment."""
  pairs = collections.Counter()
  for row in rows:
    segments, ids, tokens = row["segments"], row["document_ids"], row["tokens"].tolist()
    same = (segments[1:] == segments[:-1]) & (segments[1:] > 0)
    for t in np.flatnonzero(same):
      assert ids[t] == ids[t + 1]
      pairs[int(ids[t]), tokens[t], tokens[t + 1]] += 1
  return pairs


def all_pairs(documents):
  return collections.Counter(
    (d, int(a), int(b)) for d, one in enumerate(documents) for a, b in itertools.pairwise(one)
  )


@hypothesis.given(lengths, st.integers(2, 9), st.sampled_from([1, 2, 4]), st.booleans())
@hypothesis.settings(deadline=None, max_examples=80)
def test_every_token_and_closing_end_is_a_target_once_an_epoch(lengths, seq_len, batch_size, pack):
  documents = framed(lengths)
  rows = list(rows_of(documents, batch_size=batch_size, seq_len=seq_len, pack=pack, epochs=1))
  assert weighted_pairs(rows) == all_pairs(documents)


@hypothesis.given(lengths, st.integers(2, 9), st.booleans())
@hypothesis.settings(deadline=None, max_examples=80)
def test_segments_number_the_documents_of_a_row_and_padding_is_zero(lengths, seq_len, pack):
  for row in rows_of(framed(lengths), seq_len=seq_len, pack=pack, epochs=1):
    real = row["segments"] > 0
    assert (np.diff(real.astype(int)) <= 0).all()  # padding at the end only
    segments, ids = row["segments"][real], row["document_ids"][real]
    assert (np.diff(segments) >= 0).all() and (np.diff(segments) <= 1).all()
    assert segments[:1].tolist() in ([], [1])
    assert (np.diff(ids) == np.diff(segments)).all()
    assert (row["document_ids"][~real] == -1).all() and (row["tokens"][~real] == 0).all()
    inner = row["tokens"] > 0
    assert (row["tokens"][inner] // 1000 - 1 == row["document_ids"][inner]).all()
    if not pack:
      assert (segments == 1).all()


def test_packed_rows_waste_only_the_joints_and_the_last_row():
  documents = framed([5, 11, 2, 31])
  rows = list(rows_of(documents, batch_size=1, seq_len=7, epochs=1))
  tokens = sum(map(len, documents))
  assert len(rows) == (tokens - 1) / 7 == 8  # a ninth row would hold one token and no pair
  assert rows[0]["tokens"].tolist() == [0, 1000, 1001, 1002, 1003, 1004, 0, 0]
  assert rows[0]["segments"].tolist() == [1] * 7 + [2]
  assert rows[1]["tokens"][0] == rows[0]["tokens"][-1]  # rows share a token, as a new target


def test_an_unpacked_document_begins_a_row_and_goes_on_in_the_next():
  rows = list(rows_of(framed([3, 12]), batch_size=1, seq_len=7, pack=False, epochs=1))
  assert [row["tokens"].tolist() for row in rows] == [
    [0, 1000, 1001, 1002, 0, 0, 0, 0],
    [0, 2000, 2001, 2002, 2003, 2004, 2005, 2006],
    [2006, 2007, 2008, 2009, 2010, 2011, 0, 0],
  ]
  assert [row["segments"].sum() for row in rows] == [5, 8, 7]


def test_validation_keeps_its_order_and_fills_the_last_batch_with_padding():
  rows = list(rows_of(framed([20]), batch_size=4, seq_len=5, epochs=1))
  assert len(rows) == 8
  assert [row["tokens"][0] for row in rows[:5]] == [0, 1004, 1009, 1014, 1019]
  assert all((row["segments"] == 0).all() for row in rows[5:])
  assert len(list(rows_of(framed([20]), batch_size=4, seq_len=5, epochs=3))) == 16


def key(row):
  return tuple(row["tokens"].tolist())


def test_each_epoch_has_every_row_in_a_new_order_of_the_seed():
  documents = framed([30] * 10)
  count = len(list(rows_of(documents, batch_size=1, epochs=1)))
  take = 3 * count // 2
  rows = [key(row) for row in rows_of(documents, take=take)]
  epochs = [rows[i : i + count] for i in (0, count, 2 * count)]
  assert set(epochs[0]) == set(epochs[1]) and len(set(epochs[0])) == count
  stored = [key(row) for row in rows_of(documents, batch_size=1, epochs=1)]
  assert len({tuple(order) for order in [*epochs, stored]}) == 4
  assert rows == [key(row) for row in rows_of(documents, take=take)]
  other = [key(row) for row in rows_of(documents, take=take, seed=1)]
  # The orders of two seeds must not be each other's, shifted by an epoch.
  assert not {tuple(other[i : i + count]) for i in (0, count, 2 * count)} & {
    tuple(order) for order in epochs
  }


MIXTURE = [(framed([40, 3, 17]), 3.0), (framed([25, 25], first=3), 1.0)]


@pytest.mark.parametrize("documents", [framed([30, 5, 40]), MIXTURE], ids=["one", "mixture"])
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("epochs", [None, 1])
def test_the_order_does_not_depend_on_the_number_of_processes(documents, pack, epochs):
  def batches(process_count):
    parts = [
      list(
        rows_of(
          documents,
          batch_size=4,
          pack=pack,
          take=9,
          process_index=index,
          process_count=process_count,
          epochs=epochs,
        )
      )
      for index in range(process_count)
    ]
    each = 4 // process_count
    return [
      (key(row), row["document_ids"].tolist())
      for first in range(0, len(parts[0]), each)
      for part in parts
      for row in part[first : first + each]
    ]

  assert batches(1) == batches(2) == batches(4)


@hypothesis.given(st.integers(0, 12), st.integers(0, 4), st.sampled_from([(1, 0), (2, 0), (2, 1)]))
@hypothesis.settings(deadline=None, max_examples=30)
def test_a_resumed_iterator_gives_the_next_batch_bit_for_bit(before, ahead, process):
  def make(process_count=1, process_index=0):
    return make_iterator(
      MIXTURE,
      batch_size=4,
      seq_len=7,
      seed=5,
      pack=True,
      transform=dict,
      process_count=process_count,
      process_index=process_index,
    )

  count, index = process
  whole = [next(iterator) for iterator in [make()] for _ in range(before + 6)]
  stopped = make(count, index)
  for _ in range(before):
    next(stopped)
  state = json.loads(json.dumps(stopped.get_state()))
  assert state == {**make().get_state(), "batches": before}  # the same on all processes
  resumed = make()
  for _ in range(ahead):
    next(resumed)
  resumed.set_state(state)
  for expected in whole[before:]:
    found = next(resumed)
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)


def test_a_state_of_other_data_or_sizes_is_refused():
  def make(documents=MIXTURE, **options):
    settings = {"batch_size": 4, "seq_len": 7, "seed": 5, "pack": True, "transform": dict}
    return make_iterator(documents, **{**settings, **options})

  state = make().get_state()
  with pytest.raises(UserError, match="batch_size was 4, now it is 2"):
    make(batch_size=2).set_state(state)
  with pytest.raises(UserError, match="tokens was"):
    make([(framed([90]), 3.0), (framed([9]), 1.0)]).set_state(state)
  with pytest.raises(UserError, match="seed was 5"):
    make(seed=6).set_state(state)


def test_a_mixture_interleaves_evenly_and_repeats_each_source_by_itself():
  rows = list(rows_of(MIXTURE, batch_size=4, take=60))
  second = np.array([row["document_ids"].max() >= 3 for row in rows])
  assert (second.reshape(-1, 4).sum(1) == 1).all()  # 3 to 1 in every batch
  first_rows = [key(row) for row in rows_of(MIXTURE[0][0], batch_size=1, epochs=1)]
  counts = collections.Counter(
    key(row) for row, other in zip(rows, second, strict=True) if not other
  )
  assert set(counts) == set(first_rows)
  assert max(counts.values()) - min(counts.values()) <= 1
  stored = list(rows_of(MIXTURE, batch_size=1, epochs=1))
  documents = MIXTURE[0][0] + MIXTURE[1][0]
  assert weighted_pairs(stored) == all_pairs(documents)


def test_a_memory_mapped_stream_serves_as_documents_do(tmp_path):
  documents = framed([9, 30, 4])
  stream = packing.join(documents)
  np.save(tmp_path / "tokens.npy", stream.tokens_N)
  mapped = packing.Stream(np.load(tmp_path / "tokens.npy", mmap_mode="r"), stream.ends_D)
  assert [key(row) for row in rows_of(mapped, take=12)] == [
    key(row) for row in rows_of(documents, take=12)
  ]


def test_an_error_of_the_transform_reaches_the_caller():
  def transform(row):
    raise RuntimeError("from the transform")

  iterator = make_iterator(
    framed([20]), batch_size=1, seq_len=4, seed=0, pack=True, transform=transform
  )
  with pytest.raises(RuntimeError, match="from the transform"):
    next(iterator)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"batch_size": 3, "process_count": 2}, "multiple of the number of processes"),
    ({"batch_size": 0}, "batch_size must be"),
    ({"seq_len": 1}, "seq_len must be at least 2"),
    ({"seq_len": 100}, "less than one row of seq_len \\+ 1 = 101"),
    ({"documents": []}, "no documents"),
    ({"documents": [np.zeros(1, np.int32)]}, "less than one pair"),
    ({"documents": [(framed([9]), 0.0)]}, "weights must be positive"),
    ({"epochs": 0}, "epochs must be at least 1"),
    ({"process_index": 1}, "process_index must be 0 to 0"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
  options = {"documents": framed([20]), **options}
  with pytest.raises(UserError, match=message):
    next(rows_of(options.pop("documents"), **options))
