"""Parity: whether a string of bits holds an even or an odd number of ones.

  0 1 1 0 1 ?     at "?" the answer is "odd"

By chance: 1/2.

Source: Deletang et al. 2022, arXiv:2207.02098, "parity check": a regular language.
"""

import numpy as np

from llm_jax.data import strings


class Parity(strings.Strings):
  """One bit of state, flipped by some tokens."""

  symbols = strings.symbols("0", "1", "even", "odd")

  def example(self, random: np.random.RandomState, length: int):
    bits = random.randint(2, size=length)
    return strings.answered(bits, [2 + bits.sum() % 2])
