"""Modular arithmetic with brackets: nested expressions of the numbers 0 to 4, modulo 5.

  ( 3 * ( 1 - 4 ) ) ?     at "?" the answer is 1

By chance: 0.27, the share of 0, which products make the commonest answer.

Source: Deletang et al. 2022, arXiv:2207.02098, "modular arithmetic": a deterministic context-free
language. Where an expression is divided in two is drawn evenly, as there.
"""

import numpy as np

from llm_jax.data import strings

NAMES = ("0", "1", "2", "3", "4", "+", "-", "(", ")", "*")
_PLUS, _MINUS, _OPENING, _CLOSING, _TIMES = range(5, 10)


class ModularArithmeticBrackets(strings.Strings):
  """Sums, differences and products, each in brackets of its own."""

  symbols = strings.symbols(*NAMES)

  def example(self, random: np.random.RandomState, length: int):
    string, value = expression(random, length)
    return strings.answered(string, [value])


def expression(
  random: np.random.RandomState, length: int, products: bool = True
) -> tuple[list[int], int]:
  """A random expression of exactly this length, and its value.

  Args:
    random: what is drawn from.
    length: tokens, at least 1.
    products: whether it may have some.

  Returns:
    Its tokens, as numbers of NAMES, and 0 to 4.
  """
  chances = iter(random.random_sample(length).tolist())
  signs = (_PLUS, _MINUS, _TIMES) if products else (_PLUS, _MINUS)
  string = []

  def write(length):
    if length <= 4:  # d, -d, (d) or (-d)
      number = int(next(chances) * 5)
      signed = [number] if length % 2 else [_MINUS, number]
      string.extend(signed if length < 3 else [_OPENING, *signed, _CLOSING])
      return number if length % 2 else -number % 5
    left = 1 + int(next(chances) * (length - 4))
    sign = int(next(chances) * len(signs))
    string.append(_OPENING)
    one = write(left)
    string.append(signs[sign])
    other = write(length - 3 - left)
    string.append(_CLOSING)
    return (one + other, one - other, one * other)[sign] % 5

  value = write(length)
  return string, value
