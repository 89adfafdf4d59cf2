"""Pairs of texts, a source and its target: as token ids, and several of them in a row.

Legend: N pairs, K parts that a row keeps apart (sources and targets), R rows, L places of a part.
"""

from collections.abc import Sequence

import numpy as np

from llm_jax.data import labelled
from llm_jax.data.packing import PADDING
from llm_jax.data.tokenizers import Tokenizer
from llm_jax.errors import UserError

TOO_LONG = ("error", "drop", "cut")
_OPEN = 64  # rows that may still get a pair: more would fill hardly better, and take longer


def encode(
  records: Sequence[dict], tokenizer: Tokenizer
) -> tuple[list[list[int]], list[list[int]]]:
  """The ids of all sources and of all targets, without tokens around them.

  Raises:
    UserError: a text is empty, or no text at all.
  """
  check(records)
  sides = [
    tokenizer.encode_documents([record[field] for record in records])
    for field in ("source", "target")
  ]
  return tuple([framed[1:-1].tolist() for framed in side] for side in sides)


def check(records: Sequence[dict]) -> None:
  """Refuses a record of which a text is empty, or no text at all."""
  for number, record in enumerate(records, 1):
    for field in ("source", "target"):
      if not isinstance(record[field], str) or not record[field].strip():
        raise UserError(
          f"{named(number, record)} has no {field}: expected a text, found {record[field]!r}. "
          "Remove the record, or mend it."
        )


def source_frame(vocabulary) -> tuple[list[int], list[int]]:
  """What stands before and behind the source of an encoder-decoder: a begin token that is not the
  end token, as published ones have it, and the end token."""
  begin, end = [vocabulary.begin_id], [vocabulary.end_id]
  return ([] if begin == end else begin), end


def fits(record: dict, number: int, sizes: Sequence[int], lengths: Sequence[int], too_long: str):
  """Whether the parts of a record's pair, of these sizes, have room in a row.

  Raises:
    UserError: they have not, and `too_long` is "error".
  """
  fitting = all(size <= length for size, length in zip(sizes, lengths, strict=True))
  if not fitting and too_long == "error":
    raise UserError(
      f"{named(number, record)} has {' and '.join(map(str, sizes))} tokens, and a row has room for "
      f"{' and '.join(map(str, lengths))}. Raise --config.seq_len, or set "
      "--config.objective_options.too_long to 'drop' or 'cut'."
    )
  return fitting


def named(number: int, record: dict) -> str:
  """A record as a message names it."""
  source = str(record["source"])
  shown = repr(source[:40] + "..." if len(source) > 40 else source)
  return f"Record {number} (source {shown})"


def check_options(objective) -> None:
  """Refuses options of an objective of pairs that mean nothing."""
  labelled.check_choice("too_long", objective.too_long, TOO_LONG)
  if not 0 <= objective.label_smoothing < 1:
    raise UserError(
      "objective_options.label_smoothing must be 0 up to below 1, found "
      f"{objective.label_smoothing}."
    )


def pack(parts: Sequence[Sequence[Sequence[int]]], lengths: Sequence[int]) -> list[dict]:
  """Puts pairs into rows, each into the first of the open rows where all of its parts have room.

  A fixed order: that of the pairs. A row's pairs are numbered 1, 2, .. as its segments, and a
  pair has one number in all parts.

  Args:
    parts: K lists of N lists of ids, each of at most its part's length.
    lengths: how many places each part has in a row.

  Returns:
    for each part "tokens", "segments" (0 at padding) and "document_ids" (the pair's number, -1 at
    padding), int32 (R, L).

  Raises:
    UserError: no pair has any tokens.
  """
  sizes_NK = np.array([[len(ids) for ids in part] for part in parts], np.int64).T
  if not sizes_NK.any():
    raise UserError("No pair is left: all were longer than a row. Raise --config.seq_len.")
  row_N = _first_fit(sizes_NK, np.array(lengths, np.int64))
  rows = int(row_N.max(initial=-1)) + 1
  filled = [
    {
      "tokens": np.zeros((rows, length), np.int32),
      "segments": np.zeros((rows, length), np.int32),
      "document_ids": np.full((rows, length), PADDING, np.int32),
    }
    for length in lengths
  ]
  used_RK, pairs_R = np.zeros((rows, len(parts)), np.int64), np.zeros(rows, np.int64)
  for number, row in enumerate(row_N):
    pairs_R[row] += 1
    for k, part in enumerate(parts):
      place = slice(used_RK[row, k], used_RK[row, k] + len(part[number]))
      filled[k]["tokens"][row, place] = part[number]
      filled[k]["segments"][row, place] = pairs_R[row]
      filled[k]["document_ids"][row, place] = number
      used_RK[row, k] = place.stop
  return filled


def _first_fit(sizes_NK, length_K) -> np.ndarray:
  """The row of each pair. Of the open rows the oldest is closed for a new one."""
  row_N = np.zeros(len(sizes_NK), np.int64)
  left_OK = np.full((_OPEN, len(length_K)), -1, np.int64)  # rows not begun yet have no room
  row_O, rows = np.full(_OPEN, -1), 0
  for number, size_K in enumerate(sizes_NK):
    fits_O = (left_OK >= size_K).all(1)
    place = int(fits_O.argmax())
    if not fits_O[place]:
      left_OK, row_O = np.roll(left_OK, -1, axis=0), np.roll(row_O, -1)  # oldest first
      place, left_OK[-1], row_O[-1] = _OPEN - 1, length_K, rows
      rows += 1
    left_OK[place] -= size_K
    row_N[number] = row_O[place]
  return row_N
