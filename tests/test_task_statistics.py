"""Accuracies over tasks: what may be claimed where noise is none here and large there."""

import numpy as np
import pytest

from llm_jax.analysis import bootstrap, evidence, statistics

SOLVED, CHANCE = [1.0, 0.999, 1.0], [0.31, 0.22, 0.41]


def solved(generator, seeds):
  return 1 - np.abs(0.001 * generator.normal(size=seeds))


def unsolved(generator, seeds):
  return np.clip(0.3 + 0.1 * generator.normal(size=seeds), 0, 1)


def chance(generator, seeds):
  return 0.3 + 0.01 * generator.normal(size=seeds)


def grokked(generator, seeds):
  """Solved under two seeds of five, by luck."""
  return np.where(generator.random(seeds) < 0.4, 1.0, 0.3 + 0.05 * generator.random(seeds))


def mostly(generator, seeds):
  return np.where(generator.random(seeds) < 0.7, 1.0, 0.3 + 0.05 * generator.random(seeds))


def of_task(makers, seeds, generator, family=1):
  scores = {str(a): make(generator, seeds) for a, make in enumerate(makers)}
  return statistics.compare(scores, higher_is_better=True, fractions=True, family=family)


def claims(makers, seeds, trials, family=1):
  """Part of tasks with a claim among equals, and part of the true differences claimed."""
  generator, false, true = np.random.default_rng(0), 0, []
  for _ in range(trials):
    seen = of_task(makers, seeds, generator, family)
    told = {True: [], False: []}
    for pair in seen.pairs:
      same = makers[int(pair.lower)] is makers[int(pair.higher)]
      told[same].append(pair.apart)
    false += any(told[True])
    true += told[False]
  return false / trials, np.mean(true) if true else None


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
def test_solved_tasks_are_solved_alike(seeds):
  scores = {"a": [1.0] * seeds, "b": [0.999] * seeds, "c": [0.99] * seeds, "d": [0.3, 0.4] * 10}
  scores["d"] = scores["d"][:seeds]
  seen = statistics.compare(scores, higher_is_better=True, fractions=True)
  assert not seen.apart("a", "b") and not seen.apart("a", "c") and not seen.apart("b", "c")
  assert [seen.summaries[name].solved for name in "abcd"] == [seeds, seeds, seeds, 0]
  assert set(seen.tied_with("a")) >= {"a", "b", "c"}
  assert seen.apart("a", "d") == (seeds > 2)
  everyone = statistics.compare({"a": [1.0] * 3, "b": [0.999] * 3}, fractions=True)
  assert everyone.best_group == () and everyone.pairs[0].p_value == 1.0
  assert everyone.noise is None and everyone.threshold == statistics.RESOLUTION


def test_solved_is_told_apart_from_chance_with_three_seeds():
  seen = statistics.compare({"a": SOLVED, "b": CHANCE}, higher_is_better=True, fractions=True)
  assert seen.best_group == ("a",)
  never = {"a": [1.0] * 3, "b": [0.0] * 3}
  assert statistics.compare(never, higher_is_better=True, fractions=True).best_group == ("a",)
  # In a table of six tasks and eight architectures too.
  false, true = claims([solved] * 4 + [unsolved] * 4, 3, 60, family=7)
  assert false < 0.05 and true > 0.95


def test_what_grokked_in_two_seeds_of_five_is_neither_solved_nor_not():
  split = [1.0, 0.35, 1.0, 0.31, 0.33]
  scores = {"all": [1.0] * 5, "some": split, "none": [0.3, 0.34, 0.31, 0.35, 0.32]}
  seen = statistics.compare(scores, higher_is_better=True, fractions=True)
  assert not seen.apart("all", "some") and not seen.apart("some", "none")
  assert seen.summaries["some"].solved == 2
  low, high = seen.summaries["some"].interval
  assert low < 0.3 and high == 1.0


def test_a_clean_sweep_beside_luck_may_be_luck():
  # One is clearly better, but not where others solve the task under some seeds and not others.
  scores = {"a": [1.0] * 3, "b": [0.3, 0.33, 0.31]}
  apart = lambda more: statistics.compare(scores | more, fractions=True).apart("a", "b")
  steady, lucky = (
    {"c": [0.33, 0.3, 0.32], "d": [0.6, 0.61, 0.65]},
    {"c": [0.3, 1.0, 0.32], "d": [1.0, 0.33, 1.0]},
  )
  assert apart({}) and apart(steady) and not apart(lucky)
  # Noise is that of all four where some were lucky, else that of the three that vary.
  freedom = lambda more: statistics.compare(scores | more, fractions=True).freedom
  assert (freedom(steady), freedom(lucky)) == (6, 8)


@pytest.mark.parametrize(
  ("makers", "seeds", "allowed"),
  [
    ([unsolved] * 8, 3, 0.04),
    ([grokked] * 8, 3, 0.04),
    ([mostly] * 8, 5, 0.04),
    ([solved] * 4 + [unsolved] * 4, 3, 0.04),
    ([chance] * 6 + [unsolved] * 2, 3, 0.05),
    # One time in 30, two that solve it by luck solve it under all three seeds and under none.
    ([chance] * 6 + [grokked] * 2, 3, 0.045),
    ([chance] * 6 + [grokked] * 2, 5, 0.04),
  ],
)
def test_equals_are_rarely_told_apart_however_unequal_their_noise(makers, seeds, allowed):
  trials = 200
  false, _ = claims(makers, seeds, trials)
  assert false < allowed + 3 * (allowed * (1 - allowed) / trials) ** 0.5


def test_chance_knows_unequal_noise():
  equal_NAR = np.random.default_rng(0).normal(size=(evidence.DRAWS, 8, 3))
  equal = evidence.ratio(*evidence.separations(equal_NAR, 8, alike=False)).max(1)
  assert np.quantile(evidence.chance(8, 3, 8, False).max(0), 0.99) > 1.2 * np.quantile(equal, 0.99)


def test_a_whole_table_of_two_equal_architectures_claims_little(monkeypatch):
  monkeypatch.setattr(bootstrap, "DRAWS", 2)
  generator, tables, trials = np.random.default_rng(1), 0, 250
  for _ in range(trials):
    makers = {"1": solved, "2": unsolved, "3": chance, "4": grokked, "5": unsolved, "6": grokked}
    seen = statistics.table(
      {task: {"a": make(generator, 5), "b": make(generator, 5)} for task, make in makers.items()}
    )
    told = [of.apart("a", "b") for of in (*seen.tasks.values(), seen.overall)]
    tables += any(told)
  assert tables / trials < statistics.LEVEL + 3 * (0.04 * 0.96 / trials) ** 0.5


def test_the_more_tasks_the_more_each_needs():
  scores = {"a": [0.5, 0.55, 0.53], "b": [0.72, 0.63, 0.73]}
  alone, beside = (
    statistics.compare(scores, fractions=True, family=family).pairs[0].p_value for family in (1, 7)
  )
  assert beside == pytest.approx(1 - (1 - alone) ** 7) and alone < statistics.LEVEL < beside


def test_a_table_says_who_can_do_what():
  scores = {
    "recall": {"a": SOLVED, "b": CHANCE, "c": [1.0, 1.0, 1.0]},
    "copying": {"a": [1.0, 1.0, 1.0], "b": SOLVED, "c": SOLVED},
    "parity": {"a": CHANCE, "b": [1.0, 1.0, 1.0], "c": [0.35, 0.3, 0.2]},
    "dyck": {"a": [0.9, 0.91, 0.89], "b": [0.2, 0.21, 0.22]},
  }
  seen = statistics.table(scores)
  assert {name: set(of.best_group) for name, of in seen.tasks.items()} == {
    "recall": {"a", "c"},
    "copying": set(),
    "parity": {"b"},
    "dyck": {"a"},
  }
  assert seen.record("a", "b") == (2, 1) and seen.record("b", "a") == (1, 2)
  assert seen.record("a", "c") == (0, 0)
  # c has no score in one task and takes no part in what is said of all.
  assert list(seen.overall.summaries) == list(seen.aggregates) == ["a", "b"]
  assert seen.overall.summaries["a"].mean == pytest.approx(
    np.mean([scores[task]["a"] for task in scores])
  )


def test_who_solves_all_tasks_is_level_over_all_of_them():
  seen = statistics.table({task: {"a": [1.0] * 3, "b": [0.999] * 3} for task in "tuv"})
  assert not seen.overall.apart("a", "b") and seen.record("a", "b") == (0, 0)
  assert seen.aggregates["a"].rank.value == seen.aggregates["b"].rank.value == 1.5


def test_small_gains_in_every_task_add_up():
  generator = np.random.default_rng(2)
  noise_TAR = 0.03 * generator.normal(size=(8, 2, 5))
  scores = {
    str(t): {"a": 0.5 + noise_AR[0], "b": 0.54 + noise_AR[1]}
    for t, noise_AR in enumerate(noise_TAR)
  }
  seen = statistics.table(scores)
  assert not any(of.apart("a", "b") for of in seen.tasks.values())
  assert seen.overall.best_group == ("b",)
  assert seen.aggregates["a"].behind.low > 0


def test_intervals_stay_within_zero_and_one_and_are_never_nothing():
  seen = statistics.compare({"a": [1.0, 1.0, 1.0], "b": [0.1, 0.9, 0.5]}, fractions=True)
  low, high = seen.summaries["a"].interval
  assert low == pytest.approx(1 - 4.3027 * 0.01 / 3**0.5, abs=1e-4) and high == 1.0
  assert seen.summaries["b"].interval == (0.0, 1.0)


def test_one_seed_or_nothing_claims_nothing():
  alone = statistics.table({"t": {"a": [1.0], "b": [0.1]}})
  assert alone.tasks["t"].best_group == () and alone.overall.best_group == ()
  assert alone.aggregates["a"].mean == bootstrap.Estimate(1.0, None, None)
  assert statistics.table({}).aggregates == {}
  apart = statistics.table({"t": {"a": [1.0, 1.0]}, "u": {"b": [1.0, 1.0]}})
  assert apart.overall.summaries == {} and list(apart.tasks["u"].summaries) == ["b"]


@pytest.mark.parametrize(
  "scores",
  [
    {"t": {"a": [0.5, 1.01]}},
    {"t": {"a": [55.0, 60.0]}},
    {"t": {"a": [-0.1, 0.5]}},
    {"t": {"a": [0.5, np.nan]}},
    {"t": {"a": [0.5, 0.5]}, "u": {"a": [0.5, 0.5, 0.5]}},
    {"t": {"a": [0.5, 0.5], "b": [0.5]}},
  ],
)
def test_scores_that_cannot_be_compared_are_refused(scores):
  with pytest.raises(ValueError):
    statistics.table(scores)
