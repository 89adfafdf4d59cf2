"""Missing duplicate: a string of bits stands there twice but for one bit, which is asked for.

  0 1 1 0 _ 1 ?     0 1 1 twice would have a 1 at "_": at "?" the answer is 1

Such strings have an even number of tokens. By chance: 1/2.

Source: Deletang et al. 2022, arXiv:2207.02098, "missing duplicate": a context-sensitive language.
"""

import numpy as np

from llm_jax.data import strings

_HOLE = 2


class MissingDuplicate(strings.Strings):
  """The bit half a string away from a hole. A length is that of both copies."""

  least, step = 2, 2

  symbols = strings.symbols("0", "1", "_")

  def example(self, random: np.random.RandomState, length: int):
    string = np.tile(random.randint(2, size=length // 2), 2)
    hole = random.randint(length)
    missing, string[hole] = string[hole], _HOLE
    return strings.answered(string, [missing])
