"""The picture of a sweep: that it shows every trial, and says what its marks cannot."""

import math
import random
import re
from xml.etree import ElementTree

import pytest

from llm_jax.sweeps.surface import Seen, _is_log, draw

RATES = (0.001, 0.002, 0.004, 0.008)


def loss(rate, decay):
  return 2.0 + (math.log10(rate) + 2.5) ** 2 + decay


def grid():
  return [
    Seen({"a.rate": r, "a.decay": d}, loss(r, d), "complete") for r in RATES for d in (0.0, 0.1)
  ]


def labels(picture):
  return [e.get("aria-label") for e in ElementTree.fromstring(picture) if e.get("aria-label")]


def test_a_panel_a_key_and_one_for_each_pair_of_them():
  picture = draw("mine_sweep", "loss", True, grid())
  best = min(grid(), key=lambda trial: trial.score)
  assert [label.partition(";")[0] for label in labels(picture)] == [
    *("loss by a.rate", "loss by a.decay", "loss by a.rate and a.decay")
  ]
  assert all(f"best {best.score:.4g} at " in label for label in labels(picture))
  assert "mine_sweep: loss of 8 trials" in picture
  for trial in grid():  # a cell's number each
    assert f">{trial.score:.3g}<" in picture
  assert "currentColor" in picture and not re.search(r'id="(\w+)".*id="\1"', picture)


def test_higher_is_better_turns_the_picture_round():
  trials = [Seen(t.values, -t.score, t.state) for t in grid()]
  best = max(trials, key=lambda trial: trial.score)
  assert all(f"best {best.score:.4g}" in label for label in labels(draw("s", "f1", False, trials)))


def test_failed_and_distant_trials_are_counted_and_hide_nothing():
  lost = [Seen({"a.rate": 0.1, "a.decay": 0.0}, None, "failed")]
  far = [Seen({"a.rate": 0.05, "a.decay": 0.0}, 1e6, "complete")]
  picture = draw("s", "loss", True, [*grid(), *lost, *far])
  assert "2 failed or off the scale" in labels(picture)[0]
  ticks = [float(text) for text in re.findall(r">(\d\.\d+)<", picture)]
  assert max(ticks) < 10


def test_values_drawn_at_random_and_names_and_conditions_have_a_place():
  draws, trials = random.Random(0), []
  for number in range(30):
    rate, decay = 10 ** draws.uniform(-4, -1), draws.uniform(0, 0.2)
    values = {"a.rate": rate, "a.decay": decay, "name": draws.choice(["adamw", "sgd"])}
    if number % 3:
      values["heads"] = draws.choice([(1, 2), None])
    trials.append(Seen(values, loss(rate, decay), "pruned" if number % 5 == 4 else "complete"))
  picture = draw("s", "loss", True, trials)
  assert len(labels(picture)) == 4 + 3  # four keys, three pairs of the first three
  assert ">adamw<" in picture and ">(1, 2)<" in picture


@pytest.mark.parametrize(
  "trials",
  [
    [],
    [Seen({"rate": 0.1}, 2.0, "complete")] * 3,
    [Seen({"rate": r}, None, "failed") for r in RATES],
  ],
  ids=["none", "one value", "all failed"],
)
def test_without_anything_to_show_there_is_no_picture(trials):
  assert draw("s", "loss", True, trials) == ""


def test_equal_scores_make_a_picture_too():
  trials = [Seen({"x": i / 20, "y": i * i / 400}, 2.0, "complete") for i in range(20)]
  picture = draw("s", "loss", True, trials)
  assert len(labels(picture)) == 3 and ">2<" not in picture  # no lines on a plain


def test_an_axis_is_logarithmic_where_ratios_are_even():
  assert _is_log([1, 2, 4, 8]) and _is_log([1e-4, 1e-3, 1e-2])
  assert not _is_log([1, 3, 5, 7, 9]) and not _is_log([0, 1, 10]) and not _is_log([64, 96, 128])
