"""Rows of fixed length over documents joined end to end.

A document comes framed by its tokenizer: `begin t1 .. tn end`. It thus has n + 1 pairs of an input
and the token after it, whose targets are t1 .. tn and the closing end. Documents keep both ends of
their own when they are joined, so the joint between two of them, `end begin`, is the one pair that
crosses a border: objectives see it as a change of segment and give it no weight.

A row has T + 1 tokens, that is T pairs. Consecutive rows of a stream share one token (the last of
one is the first of the next), so the rows' pairs are the stream's pairs: N tokens have N - 1
pairs, in ceil((N - 1) / T) rows, each pair once, the last row padded. Unpacked, the same is done
to each document alone.

Legend: N tokens of all documents, D documents, R rows of a batch, T pairs of a row (seq_len).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from llm_jax.errors import UserError

PADDING = -1  # the document of a padding token


@dataclasses.dataclass(frozen=True)
class Stream:
  """Documents joined end to end; both arrays may be memory-mapped files.

  Attributes:
    tokens_N: int32.
    ends_D: int64, for each document the place after its last token.
  """

  tokens_N: np.ndarray
  ends_D: np.ndarray


def join(documents: Sequence[np.ndarray]) -> Stream:
  """The stream of some framed documents."""
  ends_D = np.cumsum([len(document) for document in documents], dtype=np.int64)
  parts = [np.asarray(document, np.int32) for document in documents]
  return Stream(np.concatenate([np.zeros(0, np.int32), *parts]), ends_D)


class Rows:
  """The rows of a stream, by number. Any row is found in O(log D); there is no table of rows."""

  def __init__(self, stream: Stream, seq_len: int, pack: bool):
    """Lays rows of `seq_len` pairs over a stream.

    Args:
      stream: framed documents.
      seq_len: T.
      pack: whether documents share rows; else each begins its own and is cut when it is longer.

    Raises:
      UserError: the stream has no pair.
    """
    self.stream, self.seq_len = stream, seq_len
    self.num_tokens = len(stream.tokens_N)
    if self.num_tokens < 2:
      raise UserError(f"The data holds {self.num_tokens} tokens, less than one pair. Add text.")
    lengths_D = np.diff(stream.ends_D, prepend=0)
    if pack:  # all documents are one sequence of rows
      lengths_D = np.array([self.num_tokens])
    pairs_D = np.maximum(lengths_D - 1, 0)
    self._first_token_D = np.cumsum(lengths_D) - lengths_D
    self._first_row_D = np.concatenate([[0], np.cumsum(-(-pairs_D // seq_len))])
    self._end_D = np.cumsum(lengths_D)

  def __len__(self) -> int:
    return int(self._first_row_D[-1])

  def read(self, rows_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """tokens and document numbers, both int32 (R, T + 1); padding is token 0 of document -1."""
    sequence_R = np.searchsorted(self._first_row_D, rows_R, side="right") - 1
    start_R = self._first_token_D[sequence_R]
    start_R = start_R + (rows_R - self._first_row_D[sequence_R]) * self.seq_len
    place_RT = start_R[:, None] + np.arange(self.seq_len + 1)
    real_RT = place_RT < self._end_D[sequence_R][:, None]
    place_RT = np.minimum(place_RT, self.num_tokens - 1)
    tokens_RT = np.where(real_RT, self.stream.tokens_N[place_RT], 0)
    documents_RT = np.searchsorted(self.stream.ends_D, place_RT, side="right")
    return tokens_RT.astype(np.int32), np.where(real_RT, documents_RT, PADDING).astype(np.int32)
