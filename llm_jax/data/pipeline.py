"""The input pipeline: token documents to batches of rows, in an order one can resume.

grain reads batches by their number and makes them ahead in a thread. Which rows a batch has is a
function of its number and the seed alone, so the place in the data is one integer. The order and
the rows of a batch are made with one numpy call each, because grain's own shuffle, mix and map
cost 5 to 50 us a row, more than everything here together at a seq_len of 128.

Legend: R rows of this process's part of a batch, T pairs of a row (seq_len).
"""

import functools
import zlib
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np

from llm_jax.data.packing import PADDING, Examples, Rows, Stream, join
from llm_jax.errors import UserError

BUFFERED = 4  # batches made ahead of the step that takes them


def make_iterator(
  token_documents: Stream | Examples | Sequence,
  *,
  batch_size: int,
  seq_len: int,
  seed: int,
  pack: bool,
  transform: Callable[[dict], dict],
  process_index: int = 0,
  process_count: int = 1,
  epochs: int | None = None,
) -> "BatchIterator":
  """Batches of rows, made ahead in a thread.

  Args:
    token_documents: framed documents (`Tokenizer.encode_documents`), or their `Stream`, or the
      `Examples` of an objective, or a mixture: a list of (one of these, weight). A mixture's
      sources are interleaved evenly by weight; one that is through starts anew while the others
      go on.
    batch_size: rows of the global batch. Process i of n gets the i-th n-th of them, so the order
      is the same for any number of processes.
    seq_len: pairs of a row; a stored row has one token more.
    seed: of the shuffles.
    pack: whether documents share rows; else each begins its own, and is cut when it is longer.
    transform: the objective's: a row of a table (`Rows.read`, `Examples.read`) to an example, a
      dict of arrays. Document ids count through all sources. The row's "key", uint32 (3,), is the
      seed and the row's place in the order: what is drawn from it is drawn anew each epoch, and
      the same after a resume and on any number of processes.
    process_index: this process's number.
    process_count: of all processes.
    epochs: None: endless, every epoch of a source in a new order. A number: so many passes
      through all rows as they are stored, weights aside; the last batch is filled with rows of
      padding, so that its shape is that of the others.

  Raises:
    UserError: sizes that do not fit each other, or too few tokens.
  """
  _check_sizes(batch_size, seq_len, process_index, process_count, epochs)
  sources = _sources(token_documents)
  weights = [weight for _, weight in sources]
  tables = [
    part if isinstance(part, Examples) else Rows(part, seq_len, pack) for part, _ in sources
  ]
  for rows in tables:
    # A validation part may be short and its only row mostly padding; training on that is a slip.
    short = isinstance(rows, Rows) and rows.num_tokens < seq_len + 1
    if epochs is None and pack and short:
      raise UserError(
        f"The data holds {rows.num_tokens} tokens, less than one row of seq_len + 1 = "
        f"{seq_len + 1}. Give more text or a smaller seq_len."
      )
  counts = [len(rows) for rows in tables]
  order = _Passes(counts, epochs) if epochs is not None else _Shuffles(counts, weights, seed)
  per_process = batch_size // process_count
  first = process_index * per_process
  batches = _Batches(tables, order, seed, transform, batch_size, first, per_process)
  identity = {
    "batch_size": batch_size,
    "seq_len": seq_len,
    "seed": seed,
    "pack": bool(pack),
    "epochs": epochs,
    "weights": weights,
    "tokens": [rows.num_tokens for rows in tables],
    "documents": [rows.num_documents for rows in tables],
  }
  return BatchIterator(batches, identity)


class BatchIterator(Iterator[dict[str, np.ndarray]]):
  """Batches, and the place among them: a dict for JSON, the same on all processes.

  The place counts batches handed out, whatever the thread has made ahead. With it the state holds
  what the order depends on, and a state of another order is refused.
  """

  def __init__(self, batches, identity: dict):
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=BUFFERED)
    self._batches = iter(grain.MapDataset.source(batches).to_iter_dataset(options))
    self._identity = identity

  def __next__(self) -> dict[str, np.ndarray]:
    return next(self._batches)

  def get_state(self) -> dict:
    """What `set_state` of an iterator over the same data needs to go on after this batch."""
    return {"batches": self._batches.get_state()["next_index"], **self._identity}

  def set_state(self, state: dict) -> None:
    """Goes to where `state` was taken, on any number of processes.

    Raises:
      UserError: the state is of other data, sizes or seed.
    """
    for key, value in self._identity.items():
      if state.get(key) != value:
        raise UserError(
          f"The saved place in the data is of another order: {key} was {state.get(key)}, now it "
          f"is {value}. Resume with the data, sizes and seed that the run began with."
        )
    self._batches.set_state({"next_index": state["batches"]})


class _Batches:
  """This process's part of each batch, by the batch's number: what grain reads from."""

  def __init__(self, tables, order, seed: int, transform, batch_size: int, first: int, count: int):
    self._tables, self._order, self._seed, self._transform = tables, order, seed, transform
    self._batch_size, self._first, self._count = batch_size, first, count
    documents = [table.num_documents for table in tables]
    self._documents_before = np.cumsum([0, *documents[:-1]])
    self._template = tables[0].read(np.zeros(0, np.int64))

  def __len__(self) -> int:
    return -(-len(self._order) // self._batch_size)

  def __getitem__(self, batch: int) -> dict[str, np.ndarray]:
    start = int(batch) * self._batch_size + self._first
    place_R = start + np.arange(self._count, dtype=np.int64)
    source_R, row_R = self._order.locate(place_R)
    parts = {name: self._padding(name, array) for name, array in self._template.items()}
    for index, table in enumerate(self._tables):
      here_R = source_R == index
      for name, found_R in (table.read(row_R[here_R]) if here_R.any() else {}).items():
        if name == "document_ids":
          found_R = np.where(found_R == PADDING, PADDING, found_R + self._documents_before[index])
        parts[name][here_R] = found_R
    seed_R = np.full_like(place_R, self._seed)
    parts["key"] = np.stack([seed_R, place_R, place_R >> 32], axis=1).astype(np.uint32)
    rows = [{name: part_R[r] for name, part_R in parts.items()} for r in range(self._count)]
    examples = [self._transform(row) for row in rows]
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}

  def _padding(self, name: str, array: np.ndarray) -> np.ndarray:
    value = PADDING if name == "document_ids" else 0
    return np.full((self._count, *array.shape[1:]), value, array.dtype)


class _Passes:
  """So many passes through all sources as they are stored; behind them padding (source -1)."""

  def __init__(self, counts: list[int], epochs: int):
    self._first_row = np.concatenate([[0], np.cumsum(counts)])
    self._epochs = epochs

  def __len__(self) -> int:
    return int(self._first_row[-1]) * self._epochs

  def locate(self, places_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(source, row in it) of each place of the global order."""
    row_R = places_R % self._first_row[-1]
    source_R = np.searchsorted(self._first_row, row_R, side="right") - 1
    return np.where(places_R < len(self), source_R, -1), row_R - self._first_row[source_R]


class _Shuffles:
  """Without end: sources interleaved by weight, each in a new order every epoch of its own."""

  def __init__(self, counts: list[int], weights: list[float], seed: int):
    self._counts, self._seed = counts, seed
    # Integers, so that place 10^12 is as exact as place 1 (their product stays below 2^63).
    self._weights = [max(round(weight / sum(weights) * 2**20), 1) for weight in weights]
    self._permutation = functools.lru_cache(maxsize=2 * len(counts))(self._shuffle)

  def __len__(self) -> int:
    return 2**42

  def locate(self, places_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(source, row in it) of each place of the global order."""
    source_R, row_R = np.zeros_like(places_R), np.zeros_like(places_R)
    for source, index_R, here_R in self._interleave(places_R):
      source_R[here_R] = source
      epoch_R, within_R = np.divmod(index_R[here_R], self._counts[source])
      own_R = np.zeros_like(within_R)
      for epoch in np.unique(epoch_R).tolist():
        now_R = epoch_R == epoch
        own_R[now_R] = self._permutation(source, epoch)[within_R[now_R]]
      row_R[here_R] = own_R
    return source_R, row_R

  def _interleave(self, places_R):
    """For each source: the index in it of each place, and which places are its own.

    Of the first k places the first source has k - floor(k * rest / all), the others divide what
    is left likewise. That is even, and needs no memory of the places before.
    """
    remaining = sum(self._weights)
    mine_R, next_R = places_R, places_R + 1  # places before this one, and with it
    undecided_R = np.ones(len(places_R), bool)
    for source, weight in enumerate(self._weights):
      rest = remaining - weight
      left_R, left_next_R = mine_R * rest // remaining, next_R * rest // remaining
      here_R = undecided_R & (left_next_R == left_R)
      yield source, mine_R - left_R, here_R
      undecided_R &= ~here_R
      mine_R, next_R, remaining = left_R, left_next_R, rest

  def _shuffle(self, source: int, epoch: int) -> np.ndarray:
    # RandomState and not Generator: numpy promises its stream for ever, and a run may be resumed
    # under another numpy.
    random = np.random.RandomState([self._seed % 2**32, source, epoch])
    return random.permutation(self._counts[source])


def _sources(token_documents) -> list[tuple[Stream | Examples, float]]:
  if isinstance(token_documents, Stream | Examples):
    return [(token_documents, 1.0)]
  if not len(token_documents):
    raise UserError("The data holds no documents. Expected at least one.")
  if not isinstance(token_documents[0], tuple):
    return [(join(token_documents), 1.0)]
  sources = [
    (part if isinstance(part, Stream | Examples) else join(part), float(weight))
    for part, weight in token_documents
  ]
  for index, (_, weight) in enumerate(sources):
    if not 0 < weight < float("inf"):
      raise UserError(f"A mixture's weights must be positive; source {index} has {weight}.")
  return sources


def _check_sizes(batch_size, seq_len, process_index, process_count, epochs) -> None:
  if seq_len < 2:
    raise UserError(f"seq_len must be at least 2, found {seq_len}.")
  if not 0 <= process_index < process_count:
    raise UserError(f"process_index must be 0 to {process_count - 1}, found {process_index}.")
  if batch_size < 1 or batch_size % process_count:
    raise UserError(
      f"batch_size must be a positive multiple of the number of processes ({process_count}), "
      f"found {batch_size}."
    )
  if epochs is not None and epochs < 1:
    raise UserError(f"epochs must be at least 1, or None for an endless stream; found {epochs}.")


def draws(row: dict[str, np.ndarray]) -> np.random.RandomState:
  """The generator of what an objective draws for a row: of its "key", if it has one, and tokens."""
  seed = [zlib.crc32(np.asarray(row["tokens"], np.int32)[:-1].tobytes()), *row.get("key", ())]
  # RandomState: numpy promises its stream for ever, and a run may be resumed under another numpy.
  # Over PCG64: 8 us to make, its own generator 96.
  return np.random.RandomState(np.random.PCG64(seed))
