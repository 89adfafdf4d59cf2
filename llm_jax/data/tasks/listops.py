"""ListOps: the value of nested lists of digits, under minimum, maximum, median and sum modulo 10.

  [MAX 2 [MED 4 7 1 8 ] 3 ] ?     the median of 1 4 7 8 is 5, rounded down: at "?" the answer is 5

By chance: 0.18 at lengths of 500 to 2,000, the share of 0, the commonest value; 0.36 for one who
reads the first operator alone.

Source: Nangia & Bowman 2018, arXiv:1804.06028; Tay et al. 2020, "Long Range Arena",
arXiv:2011.04006: lengths of 500 to 2,000, up to 10 arguments and depth 10. They draw
trees until one has such a length; here a tree grows at random digits until it has just the length
that was drawn, evenly.
"""

import dataclasses

import numpy as np

from llm_jax.data import strings, task
from llm_jax.errors import UserError

_VALUES = (
  min,
  max,
  lambda values: (sorted(values)[(len(values) - 1) // 2] + sorted(values)[len(values) // 2]) // 2,
  lambda values: sum(values) % 10,
)
_OPERATORS, _CLOSE = 10, 14


@dataclasses.dataclass(frozen=True)
class Listops(strings.Strings):
  """A tree of operators, to be worked out from its leaves.

  Attributes:
    shortest: tokens of the shortest training expression.
    arguments: how many an operator has at most; it has 2 at least.
    depth: how many operators stand inside one another at most.
  """

  longest: int = 2000
  held_out_lengths: tuple[int, ...] = (500, 1000, 2000)
  shortest: int = 500
  arguments: int = 10
  depth: int = 10

  least = 4

  symbols = strings.symbols(*map(str, range(10)), "[MIN", "[MAX", "[MED", "[SM", "]")

  def __post_init__(self):
    super().__post_init__()
    task.at_least(self, shortest=self.least, longest=self.shortest, arguments=4, depth=1)
    # A tree of fewer tokens has a digit left that another operator may replace.
    room, longest = 3 * 2**self.depth - 2, max(self.longest, *self.held_out_lengths)
    if longest > room:
      raise UserError(
        f"With a depth of {self.depth} expressions have up to {room} tokens, found a length of "
        f"{longest}. Raise the depth, or shorten them."
      )

  def example(self, random: np.random.RandomState, length: int):
    tree = self._grown(random, length)
    drawn = iter(random.randint(40, size=length).tolist())
    string = []

    def write(node):
      if not node:
        string.append(next(drawn) % 10)
        return string[-1]
      operator = next(drawn) % 4
      string.append(_OPERATORS + operator)
      value = _VALUES[operator]([write(child) for child in node])
      string.append(_CLOSE)
      return value

    value = write(tree)
    return strings.answered(string, [value])

  def _grown(self, random: np.random.RandomState, length: int) -> list:
    """A tree that is written in so many tokens; a node is the list of its children."""
    chances = iter(random.random_sample(length).tolist())
    root, missing = [], length - 1  # a digit is a token, an operator two more than its arguments
    digits = [(root, self.depth)]
    while missing:
      at = int(next(chances) * len(digits))
      digits[at], digits[-1] = digits[-1], digits[at]
      node, depth = digits.pop()
      counts = range(2, min(self.arguments, missing - 1) + 1)
      if missing < self.arguments + 4:  # never leave one token, or two
        counts = [count for count in counts if missing - 1 - count not in (1, 2)]
      count = counts[int(next(chances) * len(counts))]
      node.extend([] for _ in range(count))
      missing -= count + 1
      if depth > 1:
        digits.extend((child, depth - 1) for child in node)
    return root
