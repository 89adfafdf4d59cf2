"""Copying: a string of random letters, or what follows in it on a few of them.

  $ d a c b | d a c b               all of it
  $ a c | d a c b | b               lookup "prefix": what follows on the letters before the string
  $ d a c b | a c b                 lookup "suffix": on those behind it

Next tokens are predicted; those behind the last "|" count, a suffix's key aside. Where a key stands
several times in a string, its first place is meant. The metric counts strings that are right as a
whole: given the right letters before, which is what greedy decoding comes to. By chance: nothing
for long strings, one in `letters` for a letter.

Source: Jelassi et al. 2024, "Repeat after me", arXiv:2402.01032, and the settings of its code: 26
letters, up to length 50, held out beyond. Here a row holds one string.
"""

import dataclasses

import numpy as np

from llm_jax.data import strings, task
from llm_jax.errors import unknown

_BEGIN, _BAR, _LETTERS = 1, 2, 3
_LOOKUPS = ("none", "prefix", "suffix")


@dataclasses.dataclass(frozen=True)
class Copying(strings.Strings):
  """Copying of a context, from its beginning or from a place that must be found.

  Attributes:
    letters: how many different ones there are.
    lookup: "none", "prefix" or "suffix".
    key, answer: letters of what is looked up, and of what follows on it.
  """

  longest: int = 50
  held_out_lengths: tuple[int, ...] = (50, 100, 200)
  letters: int = 26
  lookup: str = "none"
  key: int = 3
  answer: int = 3

  METRIC = "exact"

  def __post_init__(self):
    task.at_least(self, letters=2, key=1, answer=1)
    if self.lookup not in _LOOKUPS:
      raise unknown("lookup", self.lookup, _LOOKUPS)
    super().__post_init__()

  @property
  def least(self) -> int:
    return 1 if self.lookup == "none" else self.key + self.answer

  @property
  def symbols(self) -> tuple[str, ...]:
    return (task.BLANK, "$", "|", *(f"l{i}" for i in range(self.letters)))

  def tokens(self, length: int) -> int:
    behind = {
      "none": length,
      "prefix": self.key + 1 + self.answer,
      "suffix": self.key + self.answer,
    }
    return length + 1 + behind[self.lookup]

  def example(self, random: np.random.RandomState, length: int):
    string = _LETTERS + random.randint(self.letters, size=length)
    if self.lookup == "none":
      before, answer = [_BEGIN, *string, _BAR], string
    else:
      at = random.randint(length - self.key - self.answer + 1)
      key = string[at : at + self.key]
      places = np.lib.stride_tricks.sliding_window_view(string, self.key)
      end = np.argmax((places == key).all(1)) + self.key
      answer = string[end : end + self.answer]
      prefix = self.lookup == "prefix"
      before = [*key, _BAR, *string, _BAR] if prefix else [*string, _BAR, *key]
      before = [_BEGIN, *before]
    counted = np.arange(len(before) + len(answer)) >= len(before)
    return task.next_tokens([*before, *answer], counted)
