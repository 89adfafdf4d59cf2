"""Parity: whether a string of bits holds an even or an odd number of ones.

  0 1 1 0 1 ?     at "?" the answer is "odd"

Training strings have lengths drawn evenly from 1 up, held-out ones are longer.

Source: Deletang et al. 2022, "Neural networks and the Chomsky hierarchy", arXiv:2207.02098: a
regular language; trained up to length 40, tested up to 500.
"""

import dataclasses

import numpy as np

from llm_jax.data import task

SYMBOLS = (task.BLANK, "0", "1", "?", "even", "odd")


@dataclasses.dataclass(frozen=True)
class Parity:
  """One bit of state, flipped by some tokens.

  Attributes:
    longest: bits of the longest training string.
    held_out_lengths: bits of each kind of held-out string.
  """

  longest: int = 40
  held_out_lengths: tuple[int, ...] = (40, 100, 200)

  METRIC = "accuracy"

  symbols = SYMBOLS

  def __post_init__(self):
    task.check_lengths(self.longest, self.held_out_lengths)

  @property
  def groups(self) -> tuple[str, ...]:
    return tuple(f"length_{length}" for length in self.held_out_lengths)

  @property
  def length(self) -> int:
    return self.longest + 1

  @property
  def held_out_length(self) -> int:
    return max(self.held_out_lengths) + 1

  def draw(self, random: np.random.RandomState, group: int | None):
    length = 1 + random.randint(self.longest) if group is None else self.held_out_lengths[group]
    bits = random.randint(2, size=length)
    name = ("even", "odd")[bits.sum() % 2]
    return task.answered(1 + bits, [SYMBOLS.index(name)], ask=SYMBOLS.index("?"))
