"""Rows of fixed length: over documents joined end to end, or made by an objective.

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

  @property
  def num_documents(self) -> int:
    return len(self.stream.ends_D)

  def read(self, rows_R: np.ndarray) -> dict[str, np.ndarray]:
    """tokens, segments and document_ids, each int32 (R, T + 1).

    Segments are 1, 2, .. by document in the row. Padding is token 0, segment 0, document -1.
    """
    sequence_R = np.searchsorted(self._first_row_D, rows_R, side="right") - 1
    start_R = self._first_token_D[sequence_R]
    start_R = start_R + (rows_R - self._first_row_D[sequence_R]) * self.seq_len
    place_RT = start_R[:, None] + np.arange(self.seq_len + 1)
    real_RT = place_RT < self._end_D[sequence_R][:, None]
    place_RT = np.minimum(place_RT, self.num_tokens - 1)
    tokens_RT = np.where(real_RT, self.stream.tokens_N[place_RT], 0)
    documents_RT = np.searchsorted(self.stream.ends_D, place_RT, side="right")
    # A row's documents are neighbours in its stream, so their numbers count up by one.
    segments_RT = np.where(real_RT, documents_RT - documents_RT[:, :1] + 1, 0)
    return {
      "tokens": tokens_RT.astype(np.int32),
      "segments": segments_RT.astype(np.int32),
      "document_ids": np.where(real_RT, documents_RT, PADDING).astype(np.int32),
    }


class Examples:
  """Rows that an objective has made of labelled records, by number.

  Args:
    arrays: name -> (N, ...), "document_ids" among them; a row of zeros must count for nothing.
  """

  def __init__(self, arrays: dict[str, np.ndarray]):
    self.arrays = arrays
    self.num_documents = int(arrays["document_ids"].max(initial=PADDING)) + 1
    self.num_tokens = int((arrays["tokens"] > 0).sum()) if "tokens" in arrays else len(self)

  def __len__(self) -> int:
    return len(self.arrays["document_ids"])

  def read(self, rows_R: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays' rows of these numbers."""
    return {name: array[rows_R] for name, array in self.arrays.items()}
