"""Nats of single tokens: rows of many lengths in few programs, windows over long texts, and texts
of any length read in one pass by a state that goes from chunk to chunk.

Legend: B batch, S source position, T position, N scored token.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.errors import UserError
from llm_jax.ops.cross_entropy import cross_entropy

_SMALLEST_BUCKET = 16
_BATCH_TOKENS = 2048  # in one call: the logits of a vocabulary of 50,000 then take 0.4 GB
_CHUNK = 512  # tokens of a text that one call adds to its state


class Row(NamedTuple):
  """Tokens to score.

  Attributes:
    ids: int32; each token from `first` on is predicted from all before it.
    first: index of the first token that counts, at least 1.
    source: ids of an encoder-decoder's source, whose `ids` begin with its start token; else None.
  """

  ids: np.ndarray
  first: int = 1
  source: np.ndarray | None = None


class Scored(NamedTuple):
  """What a model makes of a row: nats_N, and correct_N, whether no token was likelier."""

  nats_N: np.ndarray
  correct_N: np.ndarray


def require_language_model(model, kinds: Sequence[str] = ("decoder",)) -> None:
  """Raises UserError for a model that gives no text a probability."""
  spec = model.spec
  if spec.kind not in kinds or "language_model" not in spec.heads:
    raise UserError(
      f"This score needs a {' or '.join(kinds)} with the head 'language_model', which reads from "
      f"left to right; found model.kind={spec.kind!r} with model.heads={spec.heads}."
    )


def longest_input(model) -> int | None:
  """How many tokens the model has learned positions for; None: it reads any number."""
  return model.spec.max_length if model.spec.positions == "learned" else None


def score(model, params, rows: Sequence[Row]) -> list[Scored]:
  """Scores rows, each by one parallel pass, those of like lengths in one batch.

  Raises:
    UserError: a row longer than the positions the model has learned, or without a token to score.
  """
  for index, row in enumerate(rows):
    _check(model, row, index)
  params, found = jax.device_put(params), [None] * len(rows)
  for indices in _batches([_size(row) for row in rows]):
    batch = [rows[i] for i in indices]
    tokens_BT, targets_BT, segments_BT = _filled([row.ids for row in batch], len(batch))
    source = ()
    if batch[0].source is not None:
      source_BS, _, source_segments_BS = _filled([row.source for row in batch], len(batch), 0)
      source = (source_BS, source_segments_BS)
    nats_BT, correct_BT = jax.device_get(
      _whole(model, params, tokens_BT, targets_BT, segments_BT, *source)
    )
    for b, (index, row) in enumerate(zip(indices, batch, strict=True)):
      cut = np.s_[b, row.first - 1 : len(row.ids) - 1]
      found[index] = Scored(nats_BT[cut], correct_BT[cut])
  return found


def windows(ids: np.ndarray, window: int, stride: int) -> list[Row]:
  """Cuts a text into rows of `window` inputs, `stride` apart, which score each token once.

  All tokens but those of the first row are predicted from more than `window - stride` tokens
  before them; with stride == window the rows are blocks that know nothing of each other.

  Args:
    ids: the text, of which all tokens but the first are scored.
    window: tokens the model reads at once.
    stride: new tokens a row, from 1 to window.
  """
  rows, start, scored = [], 0, 0  # targets scored so far
  while scored < len(ids) - 1:
    end = min(start + window, len(ids) - 1)
    rows.append(Row(ids[start : end + 1], scored - start + 1))
    start, scored = start + stride, end
  return rows


def carried(model, params, texts: Sequence[np.ndarray]) -> Iterator[tuple[int, Scored]]:
  """Scores texts of any length, every token but the first of each, in one pass each: a state goes
  from chunk to chunk, so a recurrent model needs no more memory for a longer text.

  Yields:
    (index of the text, its scores), in no promised order.

  Raises:
    UserError: a text longer than the positions the model has learned.
  """
  longest = longest_input(model)
  for index, ids in enumerate(texts):
    if longest is not None and len(ids) - 1 > longest:
      raise UserError(
        f"Text {index} has {len(ids) - 1} tokens to read, but the model has learned {longest} "
        "positions. Score it in windows: --window=TOKENS --stride=TOKENS."
      )
  params = jax.device_put(params)
  for indices in _batches([len(ids) - 1 for ids in texts]):
    batch = _filled([texts[i] for i in indices], len(indices))
    state, found = _start(model, *batch[0].shape), []
    for start in range(0, max(len(texts[i]) for i in indices) - 1, _CHUNK):
      chunk = (x_BT[:, start : start + _CHUNK] for x_BT in batch)
      scored, state = _continued(model, params, state, *chunk)
      found.append(jax.device_get(scored))
    nats_BT, correct_BT = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    for b, index in enumerate(indices):
      cut = np.s_[b, : len(texts[index]) - 1]
      yield index, Scored(nats_BT[cut], correct_BT[cut])


def _check(model, row, index):
  longest = longest_input(model)
  if longest is not None and _size(row) > longest:
    raise UserError(
      f"Row {index} has {_size(row)} tokens to read, but the model has learned {longest} "
      "positions. Shorten it."
    )
  if not 1 <= row.first < len(row.ids):
    raise UserError(f"Row {index} has no token to score: {len(row.ids)} ids, from {row.first} on.")


def _size(row):
  """Tokens that the longer of a row's two sides has to read."""
  return max(len(row.ids) - 1, 0 if row.source is None else len(row.source))


def _bucket(length):
  return max(_SMALLEST_BUCKET, 1 << (length - 1).bit_length())


def _batches(lengths) -> Iterator[list[int]]:
  """Indices of rows of one bucket, the longest first: what does not fit in memory fails at once."""
  order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
  while order:
    bucket = _bucket(lengths[order[0]])
    count = max(1, _BATCH_TOKENS // bucket)
    batch = [i for i in order[:count] if _bucket(lengths[i]) == bucket]
    yield batch
    order = order[len(batch) :]


def _filled(rows, count, shift=1):
  """(tokens_BT, targets_BT, segments_BT): rows padded at the right to one bucket, and rows of
  padding up to a power of two. The inputs of a row are all its tokens but the last `shift`."""
  length = _bucket(max(len(ids) for ids in rows) - shift)
  shape = (1 << (count - 1).bit_length(), length)
  tokens_BT, targets_BT, segments_BT = (np.zeros(shape, np.int32) for _ in range(3))
  for b, ids in enumerate(rows):
    inputs = len(ids) - shift
    tokens_BT[b, :inputs], targets_BT[b, :inputs] = ids[:inputs], ids[shift:]
    segments_BT[b, :inputs] = 1
  return tokens_BT, targets_BT, segments_BT


@functools.partial(jax.jit, static_argnames="model")
def _whole(model, params, tokens_BT, targets_BT, segments_BT, source_BS=None, source_segments=None):
  """Nats of each target, and whether it was the likeliest, from whole rows."""
  if source_BS is None:
    output = model.apply({"params": params}, tokens_BT, segments=segments_BT)
  else:
    output = model.apply({"params": params}, source_BS, tokens_BT, source_segments, segments_BT)
  return cross_entropy(output.logits, targets_BT)


@functools.partial(jax.jit, static_argnames=("model", "batch", "max_length"))
def _start(model, batch, max_length):
  return model.initial_state(batch, max_length, dtype=jnp.dtype(model.dtype))


@functools.partial(jax.jit, static_argnames="model", donate_argnames="state")
def _continued(model, params, state, tokens_BT, targets_BT, segments_BT):
  """`_whole`, of a chunk that continues a state; and the state after it."""
  output = model.apply({"params": params}, tokens_BT, segments=segments_BT, state=state)
  return cross_entropy(output.logits, targets_BT), output.state
