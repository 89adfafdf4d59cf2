"""Solve an equation: the number from 0 to 4 that x stands for, modulo 5.

  ( 3 - ( x + 4 ) ) = 1 ?     at "?" the answer is 3

There are sums and differences alone, so each equation has one solution. By chance: 1/5.

Source: Deletang et al. 2022, arXiv:2207.02098, "solve equation": a deterministic context-free
language. Here each number of the expression is hidden equally often.
"""

import numpy as np

from llm_jax.data import strings
from llm_jax.data.tasks import modular_arithmetic_brackets as brackets

_NAMES = brackets.NAMES[:-1]  # no products
_UNKNOWN, _EQUALS = len(_NAMES), len(_NAMES) + 1


class SolveEquation(strings.Strings):
  """An expression with one number hidden, and its value. A length is that of both."""

  least = 3

  symbols = strings.symbols(*_NAMES, "x", "=")

  def example(self, random: np.random.RandomState, length: int):
    string, value = brackets.expression(random, length - 2, products=False)
    numbers = [place for place, token in enumerate(string) if token < 5]
    hidden = numbers[random.randint(len(numbers))]
    solution, string[hidden] = string[hidden], _UNKNOWN
    return strings.answered([*string, _EQUALS, value], [solution])
