"""What the statistics of a comparison may claim: little under noise, plainly when it is large."""

import numpy as np
import pytest
from scipy import stats

from llm_jax.analysis import evidence, statistics


def equals(generator, trials, architectures, seeds, share=0.0):
  """Equal architectures (N, A, R) of variance 1, of which `share` is the seed's."""
  own_NAR = np.sqrt(1 - share) * generator.normal(size=(trials, architectures, seeds))
  return own_NAR + np.sqrt(share) * generator.normal(size=(trials, 1, seeds))


def compared(table_AR, **options):
  """The comparison of architectures 0, 1, ..."""
  return statistics.compare({str(a): row for a, row in enumerate(table_AR)}, **options)


def false_claims(values_NAR):
  """Which part of these comparisons of equals claims anything."""
  _, A, R = values_NAR.shape
  chance_PN = evidence.chance(A, R, A, True)
  _, border = evidence.judge(np.zeros(len(chance_PN)), chance_PN, statistics.LEVEL)
  return (evidence.ratio(*evidence.separations(values_NAR, A)).max(1) > border).mean()


def test_a_small_table_gives_the_textbook_noise_and_intervals():
  # Residuals after architecture and seed means: +-0.5 in each cell, so 4 * 0.25 / 1 = 1.
  seen = statistics.compare({"b": [5.0, 8.0], "a": [2.0, 3.0]})
  assert list(seen.summaries) == ["a", "b"]
  assert seen.summaries["a"].spread == pytest.approx(0.5**0.5)
  assert (seen.noise, seen.freedom) == (pytest.approx(1.0), 1)
  (pair,) = seen.pairs
  assert (pair.lower, pair.higher, pair.difference) == ("a", "b", 4.0)
  assert not pair.apart
  row = [2.0, 3.0, 7.0, 1.0]
  expected = stats.t.interval(0.95, 3, np.mean(row), stats.sem(row))
  assert statistics.compare({"a": row}).summaries["a"].interval == pytest.approx(expected)


@pytest.mark.parametrize(("seeds", "shift"), [(3, 0.0), (5, 0.0), (5, 8.0)])
def test_a_pair_is_judged_by_the_paired_and_the_unpaired_test_and_pays_for_both(seeds, shift):
  generator = np.random.default_rng(0)
  for _ in range(20):
    a, b = generator.normal(size=(2, seeds)) + shift * generator.normal(size=seeds)
    tests = stats.ttest_rel(a, b), stats.ttest_ind(a, b)
    # Each in units of its own 5 % point; the larger of them is what counts.
    ratio = max(abs(test.statistic) / stats.t.isf(0.025, test.df) for test in tests)
    alone = [2 * stats.t.sf(ratio * stats.t.isf(0.025, test.df), test.df) for test in tests]
    error = 3 * (sum(alone) / evidence.DRAWS) ** 0.5 + 1e-4
    assert max(alone) - error < compared([a, b]).pairs[0].p_value < sum(alone) + error


def test_pairs_are_judged_against_the_largest_of_those_that_are_left():
  chance_PN = np.random.default_rng(0).gamma(2, size=(3, 500))
  ratio_P = np.array([2.5, 9.0, 3.0])
  p_P, border = evidence.judge(ratio_P, chance_PN, 0.04)
  of = lambda rows, ratio: (1 + (chance_PN[rows].max(0) >= ratio).sum()) / 501
  first, second = of([0, 1, 2], 9.0), of([0, 2], 3.0)
  assert p_P.tolist() == pytest.approx([max(second, of([0], 2.5)), first, second])
  # The first is told apart. Of the others, 20 draws of 501 (the pair itself counted) are 4 %.
  assert first < 0.04 < second
  assert border == np.sort(chance_PN[[0, 2]].max(0))[-20]
  p_P, border = evidence.judge(np.array([9.0, 9.0, 9.0]), chance_PN, 0.04)
  assert (p_P == p_P[0]).all()
  p_P, border = evidence.judge(np.array([3.0, 9.9, 1.0]), chance_PN, 0.04)
  assert p_P[2] >= p_P[0] >= p_P[1]


def test_200_comparisons_of_equals_and_200_of_two_standard_deviations():
  # As issue 5 asks, where half of the variance over seeds is common to both architectures.
  values_NAR = equals(np.random.default_rng(0), 200, 2, 5, share=0.5)
  claims = sum(compared(table_AR).pairs[0].apart for table_AR in values_NAR)
  assert claims / 200 < 0.05
  values_NAR[:, 0] -= 2
  seen = [compared(table_AR) for table_AR in values_NAR]
  assert sum(of.best_group == ("0",) for of in seen) / 200 > 0.8


def test_what_two_standard_deviations_need_to_be_found():
  # The assumption of the test above: with nothing in common, not even the best unbiased test
  # that may be wrong in 5 % finds it in 80 % (the unpaired t test: 79 %).
  freedom, away = 8, 2 * np.sqrt(5 / 2)
  border = stats.t.isf(0.025, freedom)
  best = stats.nct.sf(border, freedom, away) + stats.nct.cdf(-border, freedom, away)
  assert 0.78 < best < 0.8
  found = {}
  for share in (0.0, 0.25, 0.5):
    values_NAR = equals(np.random.default_rng(1), 1000, 2, 5, share)
    values_NAR[:, 0] += 2
    found[share] = np.mean([compared(table_AR).pairs[0].apart for table_AR in values_NAR])
  # Two standard errors are 2.9, 2.6 and 2.1 %.
  assert found == pytest.approx({0.0: 0.70, 0.25: 0.77, 0.5: 0.87}, abs=0.03)


@pytest.mark.parametrize("share", [0.0, 0.6])
@pytest.mark.parametrize(
  ("architectures", "seeds"), [(2, 2), (2, 5), (3, 3), (7, 2), (7, 5), (12, 3)]
)
def test_equal_architectures_are_rarely_told_apart(architectures, seeds, share):
  values_NAR = equals(np.random.default_rng(3), 8000, architectures, seeds, share)
  rate = false_claims(values_NAR)
  # Three standard errors of 8,000 trials, and those of the 20,000 behind the border.
  error = 3 * (0.04 * 0.96 * (1 / 8000 + 1 / evidence.DRAWS)) ** 0.5
  assert rate < statistics.LEVEL + error < 0.05
  if share == 0:
    assert rate > statistics.LEVEL - error
  else:
    assert rate < statistics.LEVEL


def test_a_claim_beside_true_ones_is_as_rare():
  generator, trials, false = np.random.default_rng(4), 600, 0
  for table_AR in equals(generator, trials, 5, 3):
    table_AR[:2] += np.array([[60.0], [30.0]])
    seen = compared(table_AR)
    assert sum(pair.apart for pair in seen.pairs) >= 7
    false += any(seen.apart(a, b) for a, b in ("23", "24", "34"))
  assert false / trials < statistics.LEVEL + 3 * (0.04 * 0.96 / trials) ** 0.5


def test_one_noisy_architecture_makes_few_false_claims():
  values_NAR = np.random.default_rng(5).normal(size=(8000, 7, 5))
  values_NAR[:, 0] *= 3
  # Noise that is only pooled claims something in 11 % of such comparisons.
  assert false_claims(values_NAR) < 0.075


def test_a_large_gap_is_claimed_and_the_tie_beside_it_is_not():
  generator = np.random.default_rng(1)
  means = {"a": 2.30, "b": 2.301, "c": 2.45, "d": 2.46, "e": 2.80, "f": 2.9}
  values = {name: mean + 0.004 * generator.normal(size=2) for name, mean in means.items()}
  seen = statistics.compare(values)
  assert seen.apart("a", "c") and seen.apart("b", "e")
  assert not seen.apart("a", "b")
  assert set(seen.best_group) == {"a", "b"}
  assert set(seen.tied_with("c")) == {"c", "d"}


def test_higher_may_be_better():
  values = {"a": [2.3, 2.31, 2.32], "b": [2.5, 2.51, 2.52], "c": [2.9, 2.92, 2.91]}
  low, high = statistics.compare(values), statistics.compare(values, higher_is_better=True)
  assert list(high.summaries) == ["c", "b", "a"] == list(low.summaries)[::-1]
  assert (low.best_group, high.best_group) == (("a",), ("c",))
  names = [{(pair.lower, pair.higher) for pair in of.pairs} for of in (low, high)]
  assert names[0] == names[1] == {("a", "b"), ("a", "c"), ("b", "c")}
  assert all(pair.difference > 0 for pair in high.pairs)


def test_the_order_in_which_architectures_are_named_changes_nothing():
  table_AR = np.random.default_rng(6).normal(size=(4, 3)) + np.array([[0], [0], [2], [9]])
  values = dict(zip("abcd", table_AR, strict=True))
  assert statistics.compare(values) == statistics.compare(dict(reversed(values.items())))


def test_a_shift_shared_by_all_architectures_of_a_seed_hides_nothing():
  generator = np.random.default_rng(2)
  values_AR = np.array([[2.3], [2.4], [2.5]]) + 0.002 * generator.normal(size=(3, 3))
  shifted_AR = values_AR + np.array([[0.0, 5.0, -3.0]])
  plain, shifted = (compared(table_AR) for table_AR in (values_AR, shifted_AR))
  assert plain.noise == pytest.approx(shifted.noise)
  assert all(pair.apart for pair in shifted.pairs)
  assert shifted.summaries["0"].spread > 1


def test_nothing_under_the_threshold_is_claimed_and_most_above_it_is():
  generator, above, told = np.random.default_rng(3), 0, 0
  for _ in range(50):
    means = generator.uniform(2, 2.1, size=(6, 1))
    seen = compared(means + 0.01 * generator.normal(size=(6, 3)))
    for pair in seen.pairs:
      assert pair.difference > seen.threshold or not pair.apart
    above += sum(pair.difference > seen.threshold for pair in seen.pairs)
    told += sum(pair.apart for pair in seen.pairs)
  assert 0.8 * above < told < above < 50 * 15


@pytest.mark.parametrize(("architectures", "share"), [(2, 0.0), (2, 0.5), (6, 0.0)])
def test_intervals_of_differences_cover_them(architectures, share):
  values_NAR = equals(np.random.default_rng(7), 500, architectures, 3, share)
  values_NAR += np.arange(architectures)[:, None]
  inside = []
  for table_AR in values_NAR:
    for pair in compared(table_AR).pairs:
      true = int(pair.higher) - int(pair.lower)
      inside.append(abs(pair.difference - true) <= pair.half_width)
  assert 0.93 < np.mean(inside) < 0.985


def test_one_seed_claims_nothing():
  seen = statistics.compare({"a": [1.0], "b": [100.0]})
  assert seen.noise is None and seen.threshold is None
  assert not seen.apart("a", "b")
  assert seen.best_group == ()
  assert seen.pairs == (statistics.Pair("a", "b", 99.0, None, None, False),)
  assert seen.summaries["a"].spread is None and seen.summaries["a"].interval is None


def test_values_without_noise_are_apart_if_they_differ():
  seen = statistics.compare({"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [1.5, 1.5]})
  assert [pair.apart for pair in seen.pairs] == [True, True, False]
  assert seen.pairs[-1].p_value == 1.0 and seen.threshold == 0.0


def test_nothing_to_compare_is_no_error():
  assert statistics.compare({}).pairs == ()
  alone = statistics.compare({"a": [1.0, 2.0]})
  assert alone.pairs == () and alone.best_group == ()


@pytest.mark.parametrize("values", [{"a": [1.0], "b": [1.0, 2.0]}, {"a": []}, {"a": [np.nan]}])
def test_values_that_cannot_be_compared_are_refused(values):
  with pytest.raises(ValueError):
    statistics.compare(values)
