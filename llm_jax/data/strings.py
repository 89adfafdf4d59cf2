"""Tasks on strings of many lengths: short ones to train on, longer ones held out.

Source of the setting: Deletang et al. 2022, "Neural networks and the Chomsky hierarchy",
arXiv:2207.02098: trained up to length 40, tested up to 500, the answer read off tokens behind the
string that say nothing.
"""

import dataclasses

import numpy as np

from llm_jax.data import task

_ASK, _OWN = 1, 2  # ids of "?" and of a task's first own symbol, see `symbols`


@dataclasses.dataclass(frozen=True)
class Strings:
  """What such tasks share. A training string's length is drawn evenly from those there are.

  A task has `symbols`, and `example(random, length) -> (tokens, targets, counted)`, which are as
  those of `draw` in `data.task`. Where they differ from what follows, it also has

    tokens(length)   tokens of the longest example made from a string of this length
    least, step      a string's length is least, least + step, least + 2 step, ..
    shortest         length of the shortest training string
    UNIT             what a length counts, in the names of the groups

  Attributes:
    longest: length of the longest training string.
    held_out_lengths: of each kind of held-out string.
  """

  longest: int = 40
  held_out_lengths: tuple[int, ...] = (40, 100, 200, 500)

  METRIC = "accuracy"
  UNIT = "length"

  least, step = 1, 1

  def __post_init__(self):
    task.check_lengths(self.longest, self.held_out_lengths, self.least, self.step)

  @property
  def shortest(self) -> int:
    return self.least

  @property
  def groups(self) -> tuple[str, ...]:
    return tuple(f"{self.UNIT}_{length}" for length in self.held_out_lengths)

  @property
  def length(self) -> int:
    return self.tokens(self.longest)

  @property
  def held_out_length(self) -> int:
    return max(map(self.tokens, self.held_out_lengths))

  def tokens(self, length: int) -> int:
    return length + 1

  def draw(self, random: np.random.RandomState, group: int | None):
    if group is not None:
      return self.example(random, self.held_out_lengths[group])
    steps = (self.longest - self.shortest) // self.step
    return self.example(random, self.shortest + self.step * random.randint(steps + 1))


def symbols(*own: str) -> tuple[str, ...]:
  """The symbols of a task that is `answered`."""
  return (task.BLANK, "?", *own)


def answered(string_L, answer_A, room: int | None = None):
  """An example whose answer is read at "?" behind the string.

  Args:
    string_L, answer_A: the task's own symbols, numbered from 0.
    room: how many "?" there are, see `task.answered`.
  """
  return task.answered(_OWN + np.asarray(string_L), _OWN + np.asarray(answer_A), _ASK, room)
