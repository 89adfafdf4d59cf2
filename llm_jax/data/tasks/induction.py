"""Induction heads: what stood behind a special token the first time must follow the second time.

  c a > b d a >     at the second ">", which comes last, the answer is b

By chance: one in `letters`.

Source: Olsson et al. 2022, arXiv:2209.11895, in the form of Fu et al. 2022, "Hungry hungry hippos",
arXiv:2212.14052, and of Gu & Dao 2023, "Mamba", arXiv:2312.00752, section 4.1.2:
trained at length 256, tested from 64 to 1,048,576, a vocabulary of 16.
"""

import dataclasses

import numpy as np

from llm_jax.data import strings, task

_TRIGGER, _LETTERS = 1, 2


@dataclasses.dataclass(frozen=True)
class Induction(strings.Strings):
  """Recall of one fact. Training strings all have the same length.

  Attributes:
    letters: how many different ones there are, the special token aside.
  """

  longest: int = 256
  held_out_lengths: tuple[int, ...] = (64, 256, 1024, 4096)
  letters: int = 14

  least = 3

  def __post_init__(self):
    super().__post_init__()
    task.at_least(self, letters=2)

  @property
  def shortest(self) -> int:
    return self.longest

  @property
  def symbols(self) -> tuple[str, ...]:
    return (task.BLANK, ">", *(f"l{i}" for i in range(self.letters)))

  def tokens(self, length: int) -> int:
    return length

  def example(self, random: np.random.RandomState, length: int):
    tokens = _LETTERS + random.randint(self.letters, size=length)
    place = random.randint(length - 2)
    tokens[[place, -1]] = _TRIGGER
    targets, counted = np.zeros(length, np.int32), np.zeros(length, np.float32)
    targets[-1], counted[-1] = tokens[place + 1], 1.0
    return tokens, targets, counted
