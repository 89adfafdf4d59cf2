"""Knowledge capacity (bioS): facts about people, to be kept in the parameters; how many bits?

  _ f12 m7 l300 university?9 university.0=41 birth_date?2 birth_date.0=3 birth_date.1=17 ..

A person has a name of three tokens, which no other has, and a value of each attribute, of one token
or more; all are drawn evenly. An example is what is said of a person drawn evenly: the name, then
each attribute behind one of several signs (the paper's sentence templates), in an order that is
drawn anew, as are the signs. In training every token is predicted. Held out are no other people:
for each kind of fact (the name, an attribute) examples in which its tokens alone count.

The bits that a model knows of N people follow from its losses in nats, added up over the tokens of
a fact: p1 of the name and p2 of all attributes together, means over people. Of N0 possible names
and S0 possible lives they are N log2(N0 / e^p1) + N log2(S0 / e^p2), at most N log2(N0 / N) + N
log2(S0): of a model that knows every name and which values belong to it. A model that knows no more
than which tokens are possible where has 0. The paper divides them by the number of parameters,
unused rows of the embedding left out: 2 bits a parameter after 1,000 examples of each person, 1
after 100.

Source: Allen-Zhu & Li 2024, "Physics of language models: part 3.3", arXiv:2404.05405: bioS of
section 2.2, Theorem 3.2, Definition 4.3. Its sixth attribute follows from the employer and is left
out; the pronoun counts as one, as it does there.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np

from llm_jax.data import task
from llm_jax.errors import UserError

_BIOS = (
  ("birth_date", 12, 28, 200),
  ("birth_city", 200),
  ("university", 300),
  ("major", 100),
  ("employer", 263),
  ("pronoun", 2),
)


@dataclasses.dataclass(frozen=True)
class Knowledge:
  """Facts of people.

  Attributes:
    people: N.
    names: how many first, middle and last names there are; any number of parts.
    attributes: (name, how many values each token of it has, ...) of each.
    templates: signs of each attribute.
    facts_seed: of the people.
  """

  people: int = 10_000
  names: tuple[int, ...] = (400, 400, 1000)
  attributes: tuple = _BIOS
  templates: int = 50
  facts_seed: int = 0

  METRIC = "loss"

  def __post_init__(self):
    task.at_least(self, people=1, templates=1, facts_seed=0)
    for name, *sizes in (("names", *self.names), *self.attributes):
      if not isinstance(name, str) or not sizes or min(sizes) < 1:
        raise UserError(
          "The task needs names=(size, ...) and attributes=((name, size, ...), ...) of sizes of 1 "
          f"or more; found {name} with {tuple(sizes)}."
        )
    if len(set(self.groups)) != len(self.groups) or not self.attributes:
      raise UserError(f"The task's attributes need names of their own; found {self.groups[1:]}.")
    if self.people > math.prod(self.names):
      raise UserError(
        f"{self.people} people need as many names; names={self.names} are {math.prod(self.names)}."
      )

  @property
  def symbols(self) -> tuple[str, ...]:
    parts = [f"name.{part}={i}" for part, size in enumerate(self.names) for i in range(size)]
    signs = [f"{name}?{i}" for name, *_ in self.attributes for i in range(self.templates)]
    values = [
      f"{name}.{part}={i}"
      for name, *sizes in self.attributes
      for part, size in enumerate(sizes)
      for i in range(size)
    ]
    return (task.BLANK, *parts, *signs, *values)

  @property
  def groups(self) -> tuple[str, ...]:
    return ("name", *(name for name, *_ in self.attributes))

  @property
  def length(self) -> int:
    return len(self.names) + sum(map(len, self.attributes))

  @property
  def held_out_length(self) -> int:
    return self.length

  @functools.cached_property
  def _facts(self) -> list[np.ndarray]:
    """Ids of each person's name, and of the values of each attribute: (N, tokens) each."""
    random = np.random.RandomState(np.random.PCG64(self.facts_seed))
    numbers_N = task.distinct(random, math.prod(self.names), self.people)
    name_NP = np.stack(np.unravel_index(numbers_N, self.names), axis=1)
    facts, first = [name_NP + _firsts(1, self.names)], 1 + sum(self.names)
    first += self.templates * len(self.attributes)
    for _, *sizes in self.attributes:
      values_NP = np.stack([random.randint(size, size=self.people) for size in sizes], axis=1)
      facts.append(values_NP + _firsts(first, sizes))
      first += sum(sizes)
    return [ids_NP.astype(np.int32) for ids_NP in facts]

  def draw(self, random: np.random.RandomState, group: int | None):
    person = random.randint(self.people)
    signs = random.randint(self.templates, size=len(self.attributes)).tolist()
    name, *values = [ids_NP[person] for ids_NP in self._facts]
    told, counted = [(0,), name], [(0,), np.full(len(name), group == 0)]
    for attribute in random.permutation(len(self.attributes)).tolist():
      sign = 1 + sum(self.names) + attribute * self.templates + signs[attribute]
      told += [(sign,), values[attribute]]
      counted += [(0,), np.full(len(values[attribute]), group == 1 + attribute)]
    everything = np.ones(1 + self.length) if group is None else np.concatenate(counted)
    return task.next_tokens(np.concatenate(told), everything)

  @property
  def most_bits(self) -> float:
    """Bits of all there is to know."""
    return self.people * (self._possible_bits - math.log2(self.people))

  def bits(self, nats: Mapping[str, float]) -> float:
    """The numerator of Definition 4.3.

    Args:
      nats: the mean loss of a counted token in each group.

    Returns:
      bits; below 0 of a model that is worse than even guesses.
    """
    tokens = {name: len(sizes) for name, *sizes in (("name", *self.names), *self.attributes)}
    missing = sum(count * nats[group] for group, count in tokens.items()) / math.log(2)
    return self.people * (self._possible_bits - missing)

  @property
  def _possible_bits(self) -> float:
    """log2 of N0 S0."""
    sizes = [*self.names, *(size for _, *parts in self.attributes for size in parts)]
    return sum(map(math.log2, sizes))


def _firsts(first: int, sizes) -> np.ndarray:
  """(1, parts): the first id of each part, one part's ids behind those of the other."""
  return first + np.cumsum((0, *sizes[:-1]))[None]
