"""Modular arithmetic: sums, differences and products of the numbers 0 to 4, modulo 5.

  1 + 2 * 4 ?     products come before sums: at "?" the answer is 4

Such strings have an odd number of tokens. By chance: 1/5, a little more for 0.

Source: Deletang et al. 2022, arXiv:2207.02098, "modular arithmetic (simple)": a regular language.
"""

import dataclasses

import numpy as np

from llm_jax.data import strings

_PLUS, _MINUS, _TIMES = 5, 6, 7


@dataclasses.dataclass(frozen=True)
class ModularArithmetic(strings.Strings):
  """Arithmetic without brackets. A length is that of the expression."""

  longest: int = 39
  held_out_lengths: tuple[int, ...] = (39, 99, 199, 499)

  least, step = 1, 2

  symbols = strings.symbols("0", "1", "2", "3", "4", "+", "-", "*")

  def example(self, random: np.random.RandomState, length: int):
    string = np.empty(length, int)
    string[::2] = random.randint(5, size=length // 2 + 1)
    string[1::2] = _PLUS + random.randint(3, size=length // 2)
    return strings.answered(string, [_value(string.tolist())])


def _value(string: list[int]) -> int:
  total, product = 0, string[0]
  for sign, number in zip(string[1::2], string[2::2], strict=True):
    if sign == _TIMES:
      product = product * number % 5
    else:
      total += product
      product = number if sign == _PLUS else -number
  return (total + product) % 5
