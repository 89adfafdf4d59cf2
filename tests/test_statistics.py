"""What the statistics of a comparison may claim: little under noise, plainly when it is large."""

import numpy as np
import pytest

from llm_jax.analysis import statistics


def test_a_small_table_gives_the_textbook_noise_and_intervals():
  # Residuals after architecture and seed means: +-0.5 in each cell, so 4 * 0.25 / 1 = 1.
  compared = statistics.compare({"b": [5.0, 8.0], "a": [2.0, 3.0]})
  assert list(compared.summaries) == ["a", "b"]
  assert compared.summaries["a"].spread == pytest.approx(0.5**0.5)
  assert (compared.noise, compared.freedom) == (pytest.approx(1.0), 1)
  # One pair: the paired t test on the differences (3, 5), t = 4 with one degree of freedom.
  (pair,) = compared.pairs
  assert (pair.lower, pair.higher, pair.difference) == ("a", "b", 4.0)
  assert pair.p_value == pytest.approx(1 - 2 / np.pi * np.arctan(4.0))
  assert compared.interval == pytest.approx(12.706, rel=1e-4)
  assert not pair.apart


def test_holm_corrects_by_rank_and_never_decreases():
  assert statistics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
  assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize("seeds", [2, 4])
def test_equal_architectures_are_rarely_told_apart(seeds):
  generator, trials = np.random.default_rng(0), 400
  false_claims = 0
  for _ in range(trials):
    noise_AR = generator.normal(size=(7, seeds)) + generator.normal(size=(1, seeds))
    compared = statistics.compare({str(i): row for i, row in enumerate(noise_AR)})
    false_claims += any(pair.apart for pair in compared.pairs)
    # Naming no best is the honest answer whenever nothing was told apart.
    assert compared.best_group == () or any(pair.apart for pair in compared.pairs)
  # 5 % allowed; binomial noise of 400 trials adds three standard deviations of 1.1 %.
  assert false_claims / trials < 0.083


def test_a_large_gap_is_claimed_and_the_tie_beside_it_is_not():
  generator = np.random.default_rng(1)
  means = {"a": 2.30, "b": 2.301, "c": 2.45, "d": 2.46, "e": 2.80, "f": 2.9}
  values = {name: mean + 0.004 * generator.normal(size=2) for name, mean in means.items()}
  compared = statistics.compare(values)
  assert compared.apart("a", "c") and compared.apart("b", "e")
  assert not compared.apart("a", "b")
  assert set(compared.best_group) == {"a", "b"}
  assert set(compared.tied_with("c")) == {"c", "d"}


def test_a_shift_shared_by_all_architectures_of_a_seed_hides_nothing():
  generator = np.random.default_rng(2)
  values_AR = np.array([[2.3], [2.4], [2.5]]) + 0.002 * generator.normal(size=(3, 3))
  shifted_AR = values_AR + np.array([[0.0, 5.0, -3.0]])
  plain, shifted = (
    statistics.compare(dict(zip("abc", table_AR, strict=True)))
    for table_AR in (values_AR, shifted_AR)
  )
  assert plain.noise == pytest.approx(shifted.noise)
  assert all(pair.apart for pair in shifted.pairs)
  assert shifted.summaries["a"].spread > 1


def test_the_threshold_is_the_border_of_the_claims():
  generator, told = np.random.default_rng(3), 0
  for _ in range(50):
    means = generator.uniform(2, 2.1, size=(6, 1))
    values_AR = means + 0.01 * generator.normal(size=(6, 3))
    compared = statistics.compare({str(i): row for i, row in enumerate(values_AR)})
    told += sum(pair.apart for pair in compared.pairs)
    for pair in compared.pairs:
      assert pair.apart == (pair.difference > compared.threshold)
  assert 0 < told < 50 * 15


def test_one_seed_claims_nothing():
  compared = statistics.compare({"a": [1.0], "b": [100.0]})
  assert compared.noise is None and compared.threshold is None
  assert not compared.apart("a", "b")
  assert compared.best_group == ()
  assert compared.summaries["a"].spread is None


def test_nothing_to_compare_is_no_error():
  assert statistics.compare({}).pairs == ()
  alone = statistics.compare({"a": [1.0, 2.0]})
  assert alone.pairs == () and alone.best_group == ()


@pytest.mark.parametrize("values", [{"a": [1.0], "b": [1.0, 2.0]}, {"a": []}, {"a": [np.nan]}])
def test_values_that_cannot_be_compared_are_refused(values):
  with pytest.raises(ValueError):
    statistics.compare(values)
