"""Permutation composition: at each element of a group, the product of all elements so far.

  10234 02134 10234     S5: at each the answer is the product, 10234, 20134, 21034

An element of S3, S5 or A5 is named by where it moves the objects at places 0, 1, 2 ..; of a product
the left factor moves first. By chance: one in the group's elements (S3 6, S5 120, the others 60),
but for the first place, whose answer stands there.

Source: Merrill et al. 2024, "The illusion of state", arXiv:2404.08819: the word problems of A5 (not
solvable, like S5: as hard as any problem of NC1), A4 x Z5 (solvable, not commutative) and Z60
(commutative), each answer asked for, up to 25 elements.
"""

import dataclasses
import functools
import itertools

import numpy as np

from llm_jax.data import strings, task
from llm_jax.errors import unknown

GROUPS = ("S3", "S5", "A5", "A4xZ5", "Z60")


@dataclasses.dataclass(frozen=True)
class PermutationComposition(strings.Strings):
  """The word problem of a finite group.

  Attributes:
    group: S are all permutations of so many objects, A the even ones, Z sums modulo a number.
  """

  longest: int = 25
  held_out_lengths: tuple[int, ...] = (25, 50, 100)
  group: str = "S5"

  def __post_init__(self):
    super().__post_init__()
    if self.group not in GROUPS:
      raise unknown("group", self.group, GROUPS)

  @property
  def symbols(self) -> tuple[str, ...]:
    return (task.BLANK, *_elements(self.group)[0])

  def tokens(self, length: int) -> int:
    return length

  def example(self, random: np.random.RandomState, length: int):
    _, products = _elements(self.group)
    elements_L = random.randint(len(products), size=length)
    answers_L = list(itertools.accumulate(elements_L.tolist(), lambda a, b: products[a][b]))
    return 1 + elements_L, 1 + np.array(answers_L), np.ones(length, np.float32)


@functools.cache
def _elements(group: str) -> tuple[tuple[str, ...], list[list[int]]]:
  """The names of a group's elements, and the number of each product of two."""
  factors = [(part[0], int(part[1:])) for part in group.split("x")]
  elements = list(itertools.product(*(_moves(*factor) for factor in factors)))
  number = {element: i for i, element in enumerate(elements)}

  def product(one, other):  # one move of the objects of each factor after the other
    return tuple(tuple(b[place] for place in a) for a, b in zip(one, other, strict=True))

  def name(element):
    named = zip(factors, element, strict=True)
    return ".".join(str(m[0]) if kind == "Z" else "".join(map(str, m)) for (kind, _), m in named)

  products = [[number[product(a, b)] for b in elements] for a in elements]
  return tuple(map(name, elements)), products


def _moves(kind: str, size: int) -> list[tuple[int, ...]]:
  """Where each element of a symmetric, an alternating or a cyclic group moves so many objects."""
  if kind == "Z":
    return [tuple((place + by) % size for place in range(size)) for by in range(size)]
  moves = list(itertools.permutations(range(size)))
  odd = lambda move: sum(a > b for a, b in itertools.combinations(move, 2)) % 2
  return moves if kind == "S" else [move for move in moves if not odd(move)]
