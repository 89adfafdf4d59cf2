"""Reverse a string of bits.

  0 0 1 ? ? ?     the answers are 1 0 0

By chance: 1/2.

Source: Deletang et al. 2022, arXiv:2207.02098, "reverse string": a deterministic context-free
language.
"""

import numpy as np

from llm_jax.data import strings


class ReverseString(strings.Strings):
  """Last in, first out."""

  symbols = strings.symbols("0", "1")

  def tokens(self, length: int) -> int:
    return 2 * length

  def example(self, random: np.random.RandomState, length: int):
    string = random.randint(2, size=length)
    return strings.answered(string, string[::-1])
