"""Bucket sort: the tokens of a string in their order, of five different ones.

  3 0 4 0 1 ? ? ? ? ?     the answers are 0 0 1 3 4

By chance: 1/5 for one who guesses; but the place alone tells 0.78 of the tokens at length 40,
0.94 at length 500.

Source: Deletang et al. 2022, arXiv:2207.02098, "bucket sort": a context-sensitive language.
"""

import numpy as np

from llm_jax.data import strings


class BucketSort(strings.Strings):
  """How many there are of each."""

  symbols = strings.symbols("0", "1", "2", "3", "4")

  def tokens(self, length: int) -> int:
    return 2 * length

  def example(self, random: np.random.RandomState, length: int):
    string = random.randint(5, size=length)
    return strings.answered(string, np.sort(string))
