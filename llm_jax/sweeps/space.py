"""The space of a sweep: which values the keys of a config take, and which of them together.

  def sweep():  # beside get_config(mode) in an experiment
    return product(
      {"optimizer.learning_rate": log_uniform(1e-3, 1e-2, points=4)},
      zipped({"model.d_model": [64, 128]}, {"model.repeats": [4, 1]}),
    )

A dict of keys and ranges is their product. A list is a choice, any other value stands for itself.
Every space is drawn from by naming one choice after the other (`draw`), so that a sampler may make
them; the grid is what comes of making them in all ways.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from llm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of some values; what they are called in tables is `labels`."""

  values: tuple

  @property
  def labels(self) -> tuple:
    """The values themselves where they are plain, else their text."""
    plain = (bool, int, float, str, type(None))
    return tuple(v if isinstance(v, plain) else str(v) for v in self.values)

  def points(self) -> tuple:
    return self.values


@dataclasses.dataclass(frozen=True)
class Range:
  """Numbers from low to high, both included; a grid has `count` of them (0: all integers)."""

  low: float
  high: float
  log: bool = False
  integer: bool = False
  count: int = 0

  def points(self) -> tuple:
    """The numbers of a grid: all integers, or `count` at equal distances or equal ratios.

    Raises:
      UserError: infinitely many.
    """
    if self.integer and not self.count:
      return tuple(range(self.low, self.high + 1))
    if not self.count:
      raise UserError(
        f"The range from {self.low:g} to {self.high:g} has no grid: give it points=N, or draw from "
        "it by --sampler=random or tpe."
      )
    spaced = (np.geomspace if self.log else np.linspace)(self.low, self.high, self.count)
    if self.integer:
      return tuple(dict.fromkeys(round(x) for x in spaced.tolist()))
    # Six digits, so that what was tried can be typed; the ends are exact.
    return (self.low, *(float(f"{x:.6g}") for x in spaced[1:-1].tolist()), self.high)


# What is asked for a value: (the name of a choice to make, what there is) -> one of it.
Choose = Callable[[str, Choice | Range], Any]


@dataclasses.dataclass(frozen=True)
class Keys:
  """Every key takes a value of its own range."""

  ranges: tuple[tuple[str, Choice | Range], ...]

  @property
  def keys(self) -> tuple[str, ...]:
    return tuple(key for key, _ in self.ranges)

  def draw(self, choose: Choose, where: str = "") -> dict:
    return {key: choose(where + key, range_) for key, range_ in self.ranges}


@dataclasses.dataclass(frozen=True)
class Product:
  """Every part takes values of its own."""

  parts: tuple

  @property
  def keys(self) -> tuple[str, ...]:
    return tuple(key for part in self.parts for key in part.keys)

  def draw(self, choose: Choose, where: str = "") -> dict:
    return {k: v for part in self.parts for k, v in part.draw(choose, where).items()}


@dataclasses.dataclass(frozen=True)
class Zipped:
  """The parts go side by side: the first of each, or the second of each, and so on."""

  parts: tuple

  @property
  def keys(self) -> tuple[str, ...]:
    return tuple(key for part in self.parts for key in part.keys)

  def rows(self) -> list[dict]:
    columns = [[point.values for point in grid(part)] for part in self.parts]
    return [{k: v for d in row for k, v in d.items()} for row in zip(*columns, strict=True)]

  def draw(self, choose: Choose, where: str = "") -> dict:
    rows = self.rows()
    labels = [", ".join(map(str, row.values())) for row in rows]
    chosen = choose(where + "+".join(self.keys), Choice(tuple(labels)))
    return rows[labels.index(chosen)]


@dataclasses.dataclass(frozen=True)
class Chain:
  """One part after the other: a trial belongs to one of them."""

  parts: tuple

  @property
  def keys(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for part in self.parts for key in part.keys))

  def draw(self, choose: Choose, where: str = "") -> dict:
    name = where + "|".join(self.keys)
    part = choose(name, Choice(tuple(range(len(self.parts)))))
    return self.parts[part].draw(choose, f"{name}={part}/")


@dataclasses.dataclass(frozen=True)
class Conditional:
  """A key takes one of some values, each of which brings a space of its own."""

  key: str
  branches: tuple

  @property
  def keys(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys([self.key, *(k for _, part in self.branches for k in part.keys)]))

  def draw(self, choose: Choose, where: str = "") -> dict:
    value = choose(where + self.key, Choice(tuple(value for value, _ in self.branches)))
    [part] = [part for own, part in self.branches if own == value]
    return {self.key: value, **part.draw(choose, f"{where}{self.key}={value}/")}


Space = Keys | Product | Zipped | Chain | Conditional


# ------------------------------------------------------------------- what an experiment writes


def choice(*values) -> Choice:
  """One of these values, in a dict of keys; `[a, b]` means the same."""
  if not values:
    raise UserError("choice() needs at least one value.")
  return Choice(tuples(values))


def uniform(low: float, high: float, points: int = 0) -> Range:
  """Numbers from low to high; a grid takes `points` of them, at equal distances."""
  return _range(float(low), float(high), count=points)


def log_uniform(low: float, high: float, points: int = 0) -> Range:
  """Numbers from low to high, any octave as likely; a grid takes `points`, at equal ratios."""
  return _range(float(low), float(high), log=True, count=points)


def integers(low: int, high: int, points: int = 0, log: bool = False) -> Range:
  """Integers from low to high, both included; a grid takes all of them, or `points`."""
  if not (isinstance(low, int) and isinstance(high, int)):
    raise UserError(f"integers() needs whole numbers, found {low!r} and {high!r}.")
  return _range(low, high, log=log, integer=True, count=points)


def product(*parts) -> Product:
  """All parts at once, each with values of its own: a grid is every combination."""
  return Product(_distinct("product", parts))


def zipped(*parts) -> Zipped:
  """All parts at once, side by side: they need grids of one length."""
  made = Zipped(_distinct("zipped", parts))
  lengths = [len(grid(part)) for part in made.parts]
  if len(set(lengths)) > 1:
    raise UserError(f"zipped() needs parts of one length, found {lengths} points.")
  return made


def chain(*parts) -> Chain:
  """One part after the other; drawn at random, each part is as likely."""
  return Chain(tuple(map(space_of, _some("chain", parts))))


def conditional(key: str, branches: dict) -> Conditional:
  """`key` takes one of the values that `branches` has; each value brings the space beside it."""
  made = tuple((value, space_of(part)) for value, part in _some("conditional", branches).items())
  for value, part in made:
    if key in part.keys:
      raise UserError(f"conditional({key!r}): the space of {value!r} sets {key} again.")
  return Conditional(key, made)


def space_of(value) -> Space:
  """What `sweep()` gave as a space: a dict of keys and ranges is one too.

  Raises:
    UserError: it is none.
  """
  if isinstance(value, Space):
    return value
  if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
    raise UserError(
      f"Expected a space: {{'optimizer.learning_rate': log_uniform(...), ...}}, product, zipped, "
      f"chain or conditional; found {value!r}."
    )
  return Keys(tuple((key, _range_of(range_)) for key, range_ in value.items()))


def _range_of(value):
  if isinstance(value, Choice | Range):
    return value
  return choice(*value) if isinstance(value, list) else choice(value)


def _range(low, high, **options):
  if not low < high:
    raise UserError(f"A range goes from a lower to a higher number, found {low:g} and {high:g}.")
  if options.get("log") and low <= 0:
    raise UserError(f"A logarithmic range begins above 0, found {low:g}.")
  if options["count"] < 0 or options["count"] == 1:
    raise UserError(f"points must be 2 or more, found {options['count']}.")
  return Range(low, high, **options)


def _some(name, parts):
  if not parts:
    raise UserError(f"{name}() needs at least one part.")
  return parts


def _distinct(name, parts):
  made = tuple(map(space_of, _some(name, parts)))
  for one, other in itertools.combinations(made, 2):
    for key in one.keys:
      if key in other.keys:
        raise UserError(f"{name}(): two parts set {key}; chain() tries one after the other.")
  return made


def tuples(value):
  """JSON's lists as tuples, which is what configs hold."""
  return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value


# -------------------------------------------------------------------------------- the grid


@dataclasses.dataclass(frozen=True)
class Point:
  """One setting.

  Attributes:
    values: of the config's keys.
    choices: what was made to get there: {name: (one of, what there was)}.
  """

  values: dict
  choices: dict


def grid(space: Space) -> list[Point]:
  """All settings, the last range fastest; each once.

  Raises:
    UserError: a range without points.
  """
  return list({repr(point.values): point for point in _walk(space)}.values())


def _walk(space) -> Iterator[Point]:
  """Draws again and again, turning the last choice that has something left, as an odometer does."""
  turned: list[list] = []  # [points, index] of each choice, in the order they are asked for
  while True:
    choices = {}

    def choose(name, of, choices=choices):
      if len(choices) == len(turned):
        turned.append([of.points(), 0])
      points, index = turned[len(choices)]
      choices[name] = (points[index], of)
      return points[index]

    values = space.draw(choose)
    yield Point(values, choices)
    while turned and turned[-1][1] == len(turned[-1][0]) - 1:
      turned.pop()
    if not turned:
      return
    turned[-1][1] += 1


# --------------------------------------------------------------------------------- as JSON

_KINDS = {
  kind.__name__: kind for kind in (Choice, Range, Keys, Product, Zipped, Chain, Conditional)
}


def to_json(value):
  """A space as JSON: for the sweep's folder, and to tell one space from another."""
  if dataclasses.is_dataclass(value):
    fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return {type(value).__name__: fields}
  return [to_json(part) for part in value] if isinstance(value, tuple) else value


def from_json(value):
  """The space that `to_json` told of."""
  if isinstance(value, dict):
    [(kind, fields)] = value.items()
    return _KINDS[kind](**{name: from_json(field) for name, field in fields.items()})
  return tuple(map(from_json, value)) if isinstance(value, list | tuple) else value
