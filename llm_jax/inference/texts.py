"""A row's text as its tokens come, and where a stop string ends it."""

from collections.abc import Sequence

import numpy as np


def stopped(
  tokenizer, special: bool, stops: Sequence[str], after: Sequence[Sequence[int]], tokens, real
) -> np.ndarray:
  """Which of several continuations of each prompt hold a stop string.

  Args:
    tokenizer, special, stops: as of `Text`.
    after: ids of each prompt, of B; empty ones where an answer goes on with nothing.
    tokens: ids, (B, C, N).
    real: which continuations to look at, bool (B, C).

  Returns:
    bool (B, C).
  """
  found = np.zeros(real.shape, bool)
  for b, c in np.argwhere(real):
    text = tokenizer.decode(tokens[b, c], special, after[b])
    found[b, c] = any(stop in text for stop in stops)
  return found


class Text:
  """Turns the tokens of one row into pieces of text, up to the first stop string and with it.

  Attributes:
    stopped: whether the text has ended with a stop string.
  """

  def __init__(
    self, tokenizer, special: bool, stops: Sequence[str] = (), after: Sequence[int] = ()
  ):
    """Args: a tokenizer; whether special tokens are shown; the stop strings, none of them empty;
    the ids that the text goes on with."""
    self._stream, self._stops = tokenizer.stream(special=special, after=after), stops
    self._reach = max(map(len, stops), default=1) - 1  # of what a stop string may begin in
    self._tail, self.stopped = "", False

  def push(self, ids: Sequence[int]) -> tuple[int, str]:
    """How many of these tokens belong to the row, and the text that is certain with them.

    The token that completes a stop string belongs to it, though its text may go on behind it.
    """
    pieces = []
    for count, token in enumerate(ids):
      if self.stopped:
        return count, "".join(pieces)
      pieces.append(self._cut(self._stream.push(token)))
    return len(ids), "".join(pieces)

  def flush(self) -> str:
    """What was held back of an unfinished character, once no token will come."""
    return "" if self.stopped else self._cut(self._stream.flush())

  def _cut(self, piece: str) -> str:
    text, known = self._tail + piece, len(self._tail)
    ends = [text.find(stop) + len(stop) for stop in self._stops if stop in text]
    if ends:
      self.stopped = True
      return text[known : min(ends)]
    self._tail = text[len(text) - min(self._reach, len(text)) :]
    return piece
