"""Binary numbers of any length as arrays of bits: how tasks draw, read and write them."""

from collections.abc import Callable

import numpy as np

from llm_jax.data import strings

_SIGN, _END = 2, 3


def symbols(sign: str) -> tuple[str, ...]:
  """Those of a `calculation`."""
  return strings.symbols("0", "1", sign, "end")


def drawn(random: np.random.RandomState, length: int) -> np.ndarray:
  """The bits of a number that is not 0, each such number as likely as the others."""
  bits_L = random.randint(2, size=length)
  return bits_L if bits_L.any() else drawn(random, length)


def number(bits_L: np.ndarray) -> int:
  """What the bits say, the highest first."""
  return int((48 + bits_L).astype(np.uint8).tobytes(), 2)


def bits(value: int, width: int = 1) -> np.ndarray:
  """As few bits as say the value, but at least `width`, the highest first."""
  return np.frombuffer(f"{value:0{width}b}".encode(), np.uint8).astype(int) - 48


def calculation(random: np.random.RandomState, length: int, operate: Callable[[int, int], int]):
  """Two numbers with a sign between them, and what comes of them; lowest bits first.

  Args:
    random: what is drawn from.
    length: tokens of the two numbers and the sign, at least 3; both numbers have a bit or more.
    operate: what the sign means; its result has at most `length` - 1 bits.

  Returns:
    An example, see `data.task`, of 2 `length` tokens. "end" stands behind the result's highest bit.
  """
  first = 1 + random.randint(length - 2)
  one, other = drawn(random, first), drawn(random, length - 1 - first)
  result = bits(operate(number(one[::-1]), number(other[::-1])))[::-1]
  return strings.answered([*one, _SIGN, *other], [*result, _END], room=length)
