"""Compute a square root: the whole part of it, of a binary number, highest bits first.

  1 0 0 1 0 1 ? ? ?     the root of 37 is 6 and a bit: the answers are 1 1 0

There are half as many answers as bits, rounded up. By chance: 1/2 for a bit, the highest aside,
which is 1 three times in four where the number of bits is even.

Source: Deletang et al. 2022, arXiv:2207.02098, "compute sqrt": a context-sensitive language.
"""

import math

import numpy as np

from llm_jax.data import binary, strings


class ComputeSqrt(strings.Strings):
  """Roots of the numbers from 1 up."""

  symbols = strings.symbols("0", "1")

  def tokens(self, length: int) -> int:
    return length + self._answers(length)

  def _answers(self, length: int) -> int:
    return (length + 1) // 2

  def example(self, random: np.random.RandomState, length: int):
    string = binary.drawn(random, length)
    root = math.isqrt(binary.number(string))
    return strings.answered(string, binary.bits(root, self._answers(length)))
