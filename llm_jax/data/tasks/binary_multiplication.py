"""Binary multiplication: the product of two numbers, lowest bits first.

  0 1 * 1 1 1 ? ? ? ? ? ?     2 * 7 = 14: the answers are 0 1 1 1 end

Of the "?", as many as the string has tokens, those behind "end" do not count. By chance: 1/2 for a
bit, less for where "end" is.

Source: Deletang et al. 2022, arXiv:2207.02098, "binary multiplication": a context-sensitive
language. The lengths of the two numbers are drawn evenly, neither is 0.
"""

import operator

import numpy as np

from llm_jax.data import binary, strings


class BinaryMultiplication(strings.Strings):
  """Products, each of whose bits depends on all lower ones of both numbers."""

  least = 3

  symbols = binary.symbols("*")

  def tokens(self, length: int) -> int:
    return 2 * length

  def example(self, random: np.random.RandomState, length: int):
    return binary.calculation(random, length, operator.mul)
