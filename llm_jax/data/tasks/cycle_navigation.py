"""Cycle navigation: where on a circle of five positions one stands after steps left and right.

  right stay right left ?     from position 0: at "?" the answer is 1

By chance: 1/5, more after a few steps.

Source: Deletang et al. 2022, arXiv:2207.02098, "cycle navigation": a regular language.
"""

import numpy as np

from llm_jax.data import strings


class CycleNavigation(strings.Strings):
  """Addition of -1, 0 and 1 modulo 5."""

  symbols = strings.symbols("left", "stay", "right", "0", "1", "2", "3", "4")

  def example(self, random: np.random.RandomState, length: int):
    steps = random.randint(3, size=length)
    return strings.answered(steps, [3 + (steps - 1).sum() % 5])
