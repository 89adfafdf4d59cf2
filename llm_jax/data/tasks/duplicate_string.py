"""Duplicate a string of bits.

  0 0 1 ? ? ? ? ? ?     the answers are 0 0 1 0 0 1

By chance: 1/2.

Source: Deletang et al. 2022, arXiv:2207.02098, "duplicate string": a context-sensitive language.
"""

import numpy as np

from llm_jax.data import strings


class DuplicateString(strings.Strings):
  """First in, first out, twice."""

  symbols = strings.symbols("0", "1")

  def tokens(self, length: int) -> int:
    return 3 * length

  def example(self, random: np.random.RandomState, length: int):
    string = random.randint(2, size=length)
    return strings.answered(string, np.tile(string, 2))
