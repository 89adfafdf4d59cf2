"""Odds first: of a string of bits the first, third, fifth and so on, then the second, fourth ..

  0 1 0 1 1 ? ? ? ? ?     the answers are 0 0 1 1 1

By chance: 1/2.

Source: Deletang et al. 2022, arXiv:2207.02098, "odds first": a context-sensitive language. This is
as the paper has it; the code released with it answers the second bit first.
"""

import numpy as np

from llm_jax.data import strings


class OddsFirst(strings.Strings):
  """A string read in two passes."""

  symbols = strings.symbols("0", "1")

  def tokens(self, length: int) -> int:
    return 2 * length

  def example(self, random: np.random.RandomState, length: int):
    string = random.randint(2, size=length)
    return strings.answered(string, np.concatenate([string[::2], string[1::2]]))
