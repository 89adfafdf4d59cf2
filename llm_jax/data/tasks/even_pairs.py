"""Even pairs: whether a string of bits changes an even or an odd number of times.

  0 1 1 0 1 ?     it changes three times: at "?" the answer is "odd"

By chance: 1/2. One that compares the first bit with the last is always right.

Source: Deletang et al. 2022, arXiv:2207.02098, "even pairs" (of 01 and 10): a regular language.
"""

import numpy as np

from llm_jax.data import strings


class EvenPairs(strings.Strings):
  """Neighbours that differ, counted modulo 2."""

  symbols = strings.symbols("0", "1", "even", "odd")

  def example(self, random: np.random.RandomState, length: int):
    bits = random.randint(2, size=length)
    return strings.answered(bits, [2 + np.count_nonzero(bits[1:] != bits[:-1]) % 2])
