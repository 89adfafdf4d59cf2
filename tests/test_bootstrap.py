"""Aggregates over tasks: their values by hand, and intervals that cover what they should."""

import numpy as np
import pytest

from llm_jax.analysis import bootstrap


def test_aggregates_of_a_small_table_by_hand():
  # Two tasks, three architectures, two seeds.
  scores_TAR = np.array(
    [
      [[0.9, 0.7], [0.2, 0.4], [0.801, 0.803]],
      [[0.1, 0.1], [0.5, 0.9], [0.3, 0.3]],
    ]
  )
  a, b, c = bootstrap.aggregate(scores_TAR, resolution=0.01)
  assert [of.mean.value for of in (a, b, c)] == pytest.approx([0.45, 0.5, 0.551])
  # Of four runs the middle two.
  assert [of.middle.value for of in (a, b, c)] == pytest.approx([0.4, 0.45, 0.5505])
  # 0.800 and 0.802 share the first rank of the first task.
  assert [of.rank.value for of in (a, b, c)] == [(1.5 + 3) / 2, (3 + 1) / 2, (1.5 + 2) / 2]
  assert [of.behind.value for of in (a, b, c)] == pytest.approx([0.101, 0.051, 0.0])
  assert bootstrap.aggregate(scores_TAR)[2].rank.value == 1.5


def test_a_draw_varies_as_much_as_the_mean_does():
  scores_TAR = np.random.default_rng(0).normal(size=(4, 1, 3))
  drawn_NTAR = bootstrap._drawn(
    np.random.default_rng(1), scores_TAR, np.broadcast_to(np.arange(4), (20_000, 4))
  )
  assert drawn_NTAR.shape == (20_000, 4, 1, 2)
  # Of the mean over tasks: a sixteenth of the sum of s^2 / R.
  expected = (scores_TAR.var(2, ddof=1) / 3).sum() / 16
  assert drawn_NTAR.mean((1, 2, 3)).var() == pytest.approx(expected, rel=0.04)


def test_architectures_are_drawn_together():
  # Seeds differ widely, by the same for both: the difference is certain, neither mean is.
  shared_TR = np.random.default_rng(0).uniform(0, 0.8, size=(5, 4))
  scores_TAR = np.stack([shared_TR + 0.1, shared_TR], axis=1)
  a, b = bootstrap.aggregate(scores_TAR)
  assert a.mean.high - a.mean.low > 0.1
  assert b.behind.low == pytest.approx(0.1) and b.behind.high == pytest.approx(0.1)


def test_other_tasks_might_say_otherwise():
  # Without noise these tasks are certain; but one architecture leads by a single task of four.
  scores_TAR = np.zeros((4, 2, 3))
  scores_TAR[0, 0] = 1.0
  a, b = bootstrap.aggregate(scores_TAR)
  assert a.mean == bootstrap.Estimate(0.25, 0.25, 0.25)
  assert b.behind.low == 0.0 and b.behind.high > 0.5


def test_one_seed_has_no_intervals_and_one_task_says_nothing_of_others():
  (alone,) = bootstrap.aggregate(np.array([[[0.5]], [[0.7]]]))
  assert alone.mean == bootstrap.Estimate(0.6, None, None)
  assert alone.behind.low is None
  (one,) = bootstrap.aggregate(np.array([[[0.5, 0.6, 0.7]]]))
  assert one.mean.low == pytest.approx(0.5) and one.mean.high == pytest.approx(0.7)
  assert one.behind == bootstrap.Estimate(0.0, None, None)


def test_intervals_of_a_mean_over_six_tasks_cover_it(monkeypatch):
  monkeypatch.setattr(bootstrap, "DRAWS", 400)
  generator, inside = np.random.default_rng(3), []
  for _ in range(300):
    scores_TAR = 0.3 + 0.1 * generator.normal(size=(6, 1, 3))
    mean = bootstrap.aggregate(scores_TAR)[0].mean
    inside.append(mean.low <= 0.3 <= mean.high)
  # A plain bootstrap, R seeds of R, covers 84 %.
  assert 0.88 < np.mean(inside) < 0.98
