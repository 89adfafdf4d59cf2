"""Byte models of order n: the baseline that a trained model must beat on the same text.

Legend: N symbols of all documents. A symbol is a byte or END = 256.
"""

import numpy as np

from llm_jax.errors import UserError

END = 256
SYMBOLS = 257
MAX_ORDER = 6  # 257^(order + 1) must stay below 2^63


def bits_per_byte(train: list[str], validation: list[str], order: int) -> float:
  """Bits a byte of UTF-8 that an order-n byte model of `train` needs for `validation`.

  The probability of a symbol after a context c of k symbols is interpolated with the one after
  c', the last k - 1 of them:
    p(s | c) = (count(c s) + types(c) p(s | c')) / (count(c) + types(c)),
  where types(c) counts the different symbols seen after c, and below order 0 stands 1 / 257.
  Each document is read from its start to an END symbol after its last byte: the END costs bits
  but counts as no byte, exactly as a language model's loss over its closing token does.

  Args:
    train: documents to count.
    validation: documents to score.
    order: bytes of context, 0 to 6.

  Returns:
    Total bits over total bytes. Two megabytes at order 3 take about two seconds.

  Raises:
    UserError: no training document, no byte to score, or an order out of range.

  Source: Witten & Bell 1991, method C, in the interpolated form of Chen & Goodman 1998
  (TR-10-98), eq. 13-15.
  """
  if not 0 <= order <= MAX_ORDER:
    raise UserError(f"A byte model's order must be 0 to {MAX_ORDER}, found {order}.")
  num_bytes = sum(len(text.encode()) for text in validation)
  if not train or not num_bytes:
    raise UserError("A byte model needs training documents and at least one byte to score.")
  train_N, start_N = _symbols(train, order)
  scored_N, scored_start_N = _symbols(validation, order)
  probability_N = np.full(int(np.count_nonzero(~scored_start_N)), 1 / SYMBOLS)
  for length in range(order + 1):
    seen_N = _grams(train_N, length)[~start_N]
    asked_N = _grams(scored_N, length)[~scored_start_N]
    probability_N = _interpolate(seen_N, asked_N, probability_N)
  return float(-np.log2(probability_N).sum() / num_bytes)


def _symbols(documents: list[str], order: int) -> tuple[np.ndarray, np.ndarray]:
  """All documents joined as `order` ENDs (the context of the first byte), bytes, END; and where
  the leading ENDs are, which nobody predicts."""
  parts, starts = [], []
  for text in documents:
    data_N = np.frombuffer(text.encode(), np.uint8)
    parts.append(np.pad(data_N.astype(np.int64), (order, 1), constant_values=END))
    starts.append(np.arange(order + len(data_N) + 1) < order)
  return np.concatenate(parts), np.concatenate(starts)


def _grams(symbols_N: np.ndarray, length: int) -> np.ndarray:
  """Each symbol with the `length` before it, as one integer in base 257, the symbol last.

  At the array's start a gram is too short; those symbols are leading ENDs.
  """
  grams_N = symbols_N.copy()
  for back in range(1, length + 1):
    grams_N[back:] += symbols_N[:-back] * SYMBOLS**back
  return grams_N


def _interpolate(seen_N, asked_N, lower_N) -> np.ndarray:
  """One order of the recursion: counts from `seen_N`, the lower order's answers in `lower_N`."""
  grams, counts = np.unique(seen_N, return_counts=True)
  contexts, first, types = np.unique(grams // SYMBOLS, return_index=True, return_counts=True)
  totals = np.add.reduceat(counts, first)
  count_N = _look_up(grams, counts, asked_N)
  types_N = _look_up(contexts, types, asked_N // SYMBOLS)
  total_N = _look_up(contexts, totals, asked_N // SYMBOLS)
  # A context that was never seen says nothing: types and total are 0, and the lower order stands.
  known_N = total_N > 0
  mixed_N = (count_N + types_N * lower_N) / np.maximum(total_N + types_N, 1)
  return np.where(known_N, mixed_N, lower_N)


def _look_up(keys, values, asked_N) -> np.ndarray:
  """values[i] where keys[i] == asked, else 0; the keys are sorted."""
  place_N = np.minimum(np.searchsorted(keys, asked_N), len(keys) - 1)
  return np.where(keys[place_N] == asked_N, values[place_N], 0)
