"""Dyck words: which bracket closes next, in words of several kinds of nested brackets.

  (1 (2 )2 (2 )2 )1     counted: at (2 the answer )2, at (2 the answer )2, at )2 the answer )1

Next tokens are predicted. Whether a bracket opens or closes is chance; which one closes is not, so
those that close count, and the metric is the share of them for which the right kind is likeliest.
(The paper asks for 0.8 of what all closing ones have together; for the others that a word allows,
it looks at the mass on brackets that may not open or close at all.) By chance: one in `kinds`; the
bracket that was opened last, whether closed again or not, has the right kind 0.72 of the time (of
8 kinds, at depth 3).

Source: Hewitt et al. 2020, "RNNs can generate bounded hierarchical languages with optimal memory",
arXiv:2010.07515, Dyck-(k, m): a bracket opens or closes with 1/2 each where both can be. Here a
word's length is drawn first, evenly, and then a word of that length as likely as there. Published:
depth 3 up to length 84, held out to 168; depth 5 up to 180, held out to 360; 2 to 128 kinds.
"""

import dataclasses
import functools

import numpy as np

from llm_jax.data import strings, task


@dataclasses.dataclass(frozen=True)
class Dyck(strings.Strings):
  """A stack of bounded depth.

  Attributes:
    kinds: of brackets.
    depth: how many may be open at once.
  """

  longest: int = 84
  held_out_lengths: tuple[int, ...] = (84, 168)
  kinds: int = 8
  depth: int = 3

  least, step = 2, 2

  def __post_init__(self):
    super().__post_init__()
    task.at_least(self, kinds=1, depth=1)

  @property
  def symbols(self) -> tuple[str, ...]:
    kinds = range(1, self.kinds + 1)
    return (task.BLANK, *(f"({kind}" for kind in kinds), *(f"){kind}" for kind in kinds))

  def tokens(self, length: int) -> int:
    return length - 1

  def example(self, random: np.random.RandomState, length: int):
    kinds = iter(random.randint(self.kinds, size=length // 2).tolist())
    chances = random.random_sample(length).tolist()
    word, stack = [], []
    for chance, opens in zip(chances, self._opens[length:0:-1], strict=False):
      if chance < opens[len(stack)]:
        stack.append(next(kinds))
        word.append(stack[-1])
      else:
        word.append(self.kinds + stack.pop())
    word = np.array(word)
    return task.next_tokens(1 + word, word >= self.kinds)

  @functools.cached_property
  def _opens(self) -> list[list[float]]:
    """Chance that a bracket opens, by how many tokens are left and how many brackets are open."""
    longest = max(self.longest, *self.held_out_lengths)
    heights = np.arange(self.depth + 1)
    up = np.where(heights < self.depth, 0.5, 0.0)
    down = np.where(heights == 0, 0.0, 1.0 - up)
    # How likely a walk is at 0 at the end; of each row only the ratios matter.
    ends, opens = np.eye(1, self.depth + 1)[0], [np.zeros(self.depth + 1)]
    for _ in range(longest):
      opening = up * np.append(ends[1:], 0.0)
      ends = opening + down * np.append(0.0, ends[:-1])
      opens.append(np.divide(opening, ends, out=np.zeros_like(ends), where=ends > 0))
      ends = ends / ends.sum()
    return [row.tolist() for row in opens]
