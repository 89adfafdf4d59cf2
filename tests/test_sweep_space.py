"""The space of a sweep: what its grid has, that draws stay inside it, and what is refused."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jax import config as config_schema
from llm_jax.errors import UserError
from llm_jax.models import build
from llm_jax.sweeps import space as spaces
from llm_jax.sweeps.space import (
  chain,
  choice,
  conditional,
  integers,
  log_uniform,
  product,
  space_of,
  uniform,
  zipped,
)


def values(space):
  return [point.values for point in spaces.grid(space_of(space))]


def test_a_dict_is_the_product_of_its_ranges_the_last_one_fastest():
  found = values({"a": [1, 2], "b": choice("x", "y"), "c": 7})
  assert [tuple(point.values()) for point in found] == [
    *((1, "x", 7), (1, "y", 7), (2, "x", 7), (2, "y", 7))
  ]


def test_zipped_parts_go_side_by_side_and_a_product_takes_all_of_both():
  pairs = zipped({"width": [64, 128]}, {"depth": integers(1, 2)})
  assert values(pairs) == [{"width": 64, "depth": 1}, {"width": 128, "depth": 2}]
  found = values(product({"rate": [0.1, 0.2, 0.3]}, pairs))
  assert [(p["rate"], p["width"], p["depth"]) for p in found] == [
    (rate, *pair) for rate in (0.1, 0.2, 0.3) for pair in ((64, 1), (128, 2))
  ]


def test_a_chain_tries_one_part_after_the_other():
  assert values(chain({"a": [1, 2]}, {"b": [3, 4], "a": 0}, {"a": [2]})) == [
    *({"a": 1}, {"a": 2}, {"b": 3, "a": 0}, {"b": 4, "a": 0})  # the last is there already
  ]


def test_each_value_of_a_condition_brings_its_own_keys():
  space = conditional("name", {"adamw": {"b2": [0.95, 0.99]}, "sgd": {}})
  assert values(product(space, {"seed": [0, 1]})) == [
    {"name": "adamw", "b2": b2, "seed": seed} for b2 in (0.95, 0.99) for seed in (0, 1)
  ] + [{"name": "sgd", "seed": 0}, {"name": "sgd", "seed": 1}]


def test_the_points_of_ranges():
  assert log_uniform(1e-4, 1e-2, points=5).points() == (1e-4, 0.000316228, 1e-3, 0.00316228, 1e-2)
  assert uniform(0, 0.3, points=4).points() == (0.0, 0.1, 0.2, 0.3)
  assert integers(3, 5).points() == (3, 4, 5)
  assert integers(16, 256, points=5, log=True).points() == (16, 32, 64, 128, 256)
  assert integers(1, 4, points=9).points() == (1, 2, 3, 4)  # none twice
  with pytest.raises(UserError, match=r"points=N.*--sampler=random"):
    spaces.grid(space_of({"a": uniform(0, 1)}))


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: product({"a": [1]}, {"b": [1], "a": [2]}), "two parts set a"),
    (lambda: zipped({"a": [1, 2]}, {"b": [1, 2, 3]}), r"one length, found \[2, 3\]"),
    (lambda: conditional("a", {1: {"a": [2]}}), "sets a again"),
    (lambda: log_uniform(0, 1), "begins above 0"),
    (lambda: uniform(2, 1), "from a lower to a higher number, found 2 and 1"),
    (lambda: integers(1, 2.5), "whole numbers"),
    (lambda: uniform(1, 2, points=1), "points must be 2 or more"),
    (lambda: choice(), "at least one value"),
    (lambda: product(), "at least one part"),
    (lambda: space_of([1, 2]), "Expected a space"),
    (lambda: chain({"a": [1]}, 3), "Expected a space.*found 3"),
  ],
)
def test_what_makes_no_sense_is_refused(make, message):
  with pytest.raises(UserError, match=message):
    make()


RANGES = st.one_of(
  st.lists(st.sampled_from([0, 1, 2.5, "x", None, (1, 2)]), min_size=1, max_size=3),
  st.tuples(st.integers(0, 3), st.integers(4, 6)).map(lambda ends: integers(*ends)),
  st.integers(2, 3).map(lambda points: log_uniform(1e-3, 1.0, points)),
)
DRAWN = st.recursive(
  st.dictionaries(st.sampled_from("abcdef"), RANGES, min_size=1, max_size=2),
  lambda inner: st.one_of(
    st.lists(inner, min_size=1, max_size=2).map(lambda parts: ("product", parts)),
    st.lists(inner, min_size=1, max_size=2).map(lambda parts: ("chain", parts)),
    st.lists(inner, min_size=1, max_size=2).map(lambda parts: ("zipped", parts)),
    st.lists(inner, min_size=1, max_size=2).map(lambda parts: ("conditional", parts)),
  ),
  max_leaves=4,
)


def built(drawn):
  """The space, with new names where keys would clash."""
  names = (f"k{i}" for i in itertools.count())

  def build(node):
    if isinstance(node, dict):
      return space_of({next(names): range_ for range_ in node.values()})
    kind, parts = node
    if kind == "conditional":
      return conditional(next(names), {i: build(part) for i, part in enumerate(parts)})
    if kind == "zipped":
      parts = parts[:1] * len(parts)
    return getattr(spaces, kind)(*map(build, parts))

  return build(drawn)


@settings(max_examples=60, deadline=None)
@given(DRAWN, st.randoms())
def test_draws_are_points_of_the_grid_and_json_gives_the_space_back(drawn, random):
  space = built(drawn)
  grid = spaces.grid(space)
  assert len({repr(point.values) for point in grid}) == len(grid) >= 1
  names = []

  def choose(name, of):
    names.append(name)
    return random.choice(of.points())

  assert space.draw(choose) in [point.values for point in grid]
  assert len(set(names)) == len(names)  # each choice has a name of its own
  assert all(point.values.keys() <= set(space.keys) for point in grid)
  assert spaces.from_json(json.loads(json.dumps(spaces.to_json(space)))) == space


def sweeps_on_disk():
  for path in sorted(config_schema.EXPERIMENTS.rglob("*.py")):
    if "\ndef sweep(" in path.read_text():
      yield path


def test_the_sweeps_of_experiments_fit_their_configs():
  paths = list(sweeps_on_disk())
  assert len(paths) >= 2
  for path in paths:
    config = config_schema.load(str(path), [])
    points = spaces.grid(space_of(config_schema.sweep_of(str(path))))
    assert len(points) > 1
    changed = [config_schema.with_values(config, point.values) for point in points]
    assert len({str(one) for one in changed}) == len(points)
    for one in changed:
      one.model.vocab_size = 64
      build.build(one.model, one.dtype)  # refuses what does not fit together


def test_values_take_the_types_of_a_config(tmp_path):
  config = config_schema.base()
  before = config.to_dict()
  changed = config_schema.with_values(config, {"optimizer.clip_norm": 2, "freeze": ("a", "b")})
  assert changed.optimizer.clip_norm == 2.0 and isinstance(changed.optimizer.clip_norm, float)
  assert changed.freeze == ("a", "b")
  assert config.to_dict() == before
  for values_, message in (
    ({"optimizer.learning_rat": 1.0}, "Did you mean 'optimizer.learning_rate'"),
    ({"steps": 1.5}, "type int for steps, found 1.5"),
    ({"optimizer": 1}, "set one of these"),
  ):
    with pytest.raises(UserError, match=message):
      config_schema.with_values(config, values_)
