"""Scaling laws: coefficients found again, honest intervals, optima, isoFLOP curves, crossovers."""

import dataclasses

import numpy as np
import pytest
from scipy import optimize

from llm_jax.analysis import isoflop, scaling
from llm_jax.analysis.crossover import crossover
from llm_jax.analysis.scaling import Law, PowerLaw
from llm_jax.errors import UserError

# Hoffmann et al. 2022, arXiv:2203.15556, eq. 10; Besiroglu et al. 2024, arXiv:2404.10102, table 1.
CHINCHILLA = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
CORRECTED = Law(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
SMALL = Law(E=1.2, A=60.0, B=90.0, alpha=0.4, beta=0.35)  # as of models of 100,000 parameters


def grid(sizes, lengths, large=True):
  """N and D of every pair, over about the range of Chinchilla's runs, or of a laptop's."""
  n, d = ((7e7, 1.6e10), (5e9, 5e11)) if large else ((6e4, 5e5), (1.25e5, 1e6))
  pairs = np.meshgrid(np.geomspace(*n, sizes), np.geomspace(*d, lengths))
  return pairs[0].ravel(), pairs[1].ravel()


def noisy(law, n, d, noise, seed=0):
  return law.loss(n, d) * np.exp(noise * np.random.default_rng(seed).normal(size=len(n)))


@pytest.mark.parametrize("law", [CHINCHILLA, CORRECTED], ids=["chinchilla", "corrected"])
def test_coefficients_come_back_from_data_made_with_them(law):
  n, d = grid(6, 6)
  found = scaling.fit(n, d, law.loss(n, d), 6 * n, resamples=5)
  for name in scaling.NAMES:
    assert getattr(found.law, name) == pytest.approx(getattr(law, name), rel=1e-3)
    assert found.interval(name) == pytest.approx([getattr(law, name)] * 2, rel=1e-3)
  assert found.noise < 1e-6


def test_a_law_of_small_models_comes_back_too():
  n, d = grid(3, 3, large=False)
  found = scaling.fit(n, d, SMALL.loss(n, d), 6 * n, resamples=1).law
  for name in scaling.NAMES:
    assert getattr(found, name) == pytest.approx(getattr(SMALL, name), rel=1e-3)


def test_chinchilla_s_coefficients_lie_within_the_intervals_of_noisy_data():
  n, d = grid(8, 8)
  found = scaling.fit(n, d, noisy(CHINCHILLA, n, d, 0.01), 6 * n, resamples=300)
  for name in scaling.NAMES:
    low, high = found.interval(name)
    assert low < getattr(CHINCHILLA, name) < high
  low, high = found.interval("alpha")
  assert high - low < 0.15
  assert found.noise == pytest.approx(0.01, rel=0.2)
  value, low, high = found.exponents(1e21)["parameters"]
  assert low < 0.28 / (0.34 + 0.28) < high and low < value < high


def test_no_descent_from_elsewhere_ends_lower():
  """L-BFGS, as in the paper, from a part of its grid of starts, on the paper's own parameters."""
  n, d = grid(4, 5)
  loss = noisy(CHINCHILLA, n, d, 0.02)
  terms = lambda t: np.stack([t[0] - t[3] * np.log(n), t[1] - t[4] * np.log(d), t[2] + 0 * n])

  def objective(t):
    """And its gradient, times 1e4 so that the optimiser does not stop early."""
    predicted = np.logaddexp.reduce(terms(t))
    part, missed = np.exp(terms(t) - predicted), predicted - np.log(loss)
    slope = np.clip(missed, -1e-3, 1e-3)
    huber = np.where(np.abs(missed) < 1e-3, missed**2 / 2, 1e-3 * (np.abs(missed) - 5e-4))
    inner = np.stack([*part, -part[0] * np.log(n), -part[1] * np.log(d)])
    return 1e4 * huber.sum(), 1e4 * inner @ slope

  starts = [(a, b, e, 0.5, 0.5) for a in (5, 10) for b in (5, 10) for e in (0.0, 0.5)]
  options = {"maxiter": 3000, "maxfun": 20000, "ftol": 1e-14, "gtol": 1e-10}
  ends = [
    optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    for start in starts
  ]
  best = min(ends, key=lambda end: end.fun)
  law = scaling.fit(n, d, loss, 6 * n, resamples=1).law
  ours = [np.log(law.A), np.log(law.B), np.log(law.E), law.alpha, law.beta]
  assert objective(np.array(ours))[0] <= best.fun * (1 + 1e-6)
  assert best.fun == pytest.approx(objective(np.array(ours))[0], rel=1e-3)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
  """30 studies of 16 runs; each interval says 95 %, and 30 draws of 95 % give 24 or more."""
  n, d = grid(4, 4)
  held = dict.fromkeys([*scaling.NAMES, "prediction"], 0)
  for study in range(30):
    found = scaling.fit(n, d, noisy(CHINCHILLA, n, d, 0.005, study), 6 * n, resamples=100)
    for name in scaling.NAMES:
      low, high = found.interval(name)
      held[name] += low <= getattr(CHINCHILLA, name) <= high
    low, high = scaling.interval(found.resampled.loss(6e10, 2e12)[:, 0])
    held["prediction"] += low <= CHINCHILLA.loss(6e10, 2e12) <= high
    assert high - low < 0.3  # an interval that holds everything says nothing
  assert min(held.values()) >= 24


def test_seeds_of_one_cell_are_drawn_together():
  n, d = (np.repeat(values, 2) for values in grid(4, 4))
  loss = noisy(CHINCHILLA, *grid(4, 4), 0.01).repeat(2)  # two seeds, equal: no more is known
  width = lambda **options: np.diff(
    scaling.fit(n, d, loss, 6 * n, resamples=300, **options).interval("alpha")
  )
  single = scaling.fit(*grid(4, 4), loss[::2], 6 * n[::2], resamples=300).interval("alpha")
  assert width(blocks_R=np.arange(32) // 2) == pytest.approx(np.diff(single), rel=0.02)
  assert width() < 0.9 * np.diff(single)


def test_a_coefficient_that_the_runs_leave_open_is_named_and_its_interval_is_wide():
  """Losses that fall as if without end leave E at zero; drawn again they often do not."""
  n, d = grid(3, 3, large=False)
  endless = Law(E=1e-12, A=60.0, B=90.0, alpha=0.15, beta=0.2)
  found = scaling.fit(n, d, noisy(endless, n, d, 0.02, seed=2), 6 * n, resamples=300)
  assert found.undetermined == ("E",) and found.law.E < 1e-6
  low, high = found.interval("E")
  assert low < 1e-6 and high > 1
  assert scaling.fit(n, d, SMALL.loss(n, d), 6 * n, resamples=1).undetermined == ()


@pytest.mark.parametrize("power", [1.0, 0.8])
def test_the_optimum_is_that_of_the_closed_form(power):
  """dL/dlogN = 0 at N^(alpha + p beta) = alpha A / (beta p B) (C / k)^beta, D = C / (k N^p)."""
  law, cost, budget = CHINCHILLA, PowerLaw(7.0, power), 1e21
  best = scaling.optimum(law, cost, budget)
  ratio = law.alpha * law.A / (law.beta * power * law.B) * (budget / 7) ** law.beta
  expected = ratio ** (1 / (law.alpha + power * law.beta))
  assert float(best.parameters) == pytest.approx(expected, rel=1e-5)
  assert float(best.tokens) == pytest.approx(budget / (7 * expected**power), rel=1e-5)
  n, d = grid(4, 4)
  found = scaling.fit(n, d, law.loss(n, d), cost(n), resamples=3)
  growth = {key: value for key, (value, _, _) in found.exponents(1e20).items()}
  assert growth["parameters"] == pytest.approx(law.beta / (law.alpha + power * law.beta), rel=1e-3)
  assert growth["tokens"] == pytest.approx(1 - power * growth["parameters"], rel=1e-3)


def test_a_cost_that_is_no_power_law_is_taken_as_it_is():
  n, d = grid(4, 4)
  cost = lambda parameters: 6 * parameters + 1e9  # such as a head that does not grow
  found = scaling.fit(n, d, CHINCHILLA.loss(n, d), cost, resamples=3)
  best, _ = found.optimum([1e20])
  around = np.geomspace(0.5, 2, 501) * best.parameters
  losses = CHINCHILLA.loss(around, 1e20 / cost(around))
  assert abs(np.argmin(losses) - 250) <= 1
  assert best.tokens[0] * cost(best.parameters[0]) == pytest.approx(1e20)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda n, d, loss: (n[:5], d[:5], loss[:5]), "found 5"),
    (lambda n, d, loss: (0 * n + 1e8, d, loss), "different pairs of size and tokens; found 4"),
    (lambda n, d, loss: (np.minimum(n, 1e8), d, loss), "3 different sizes; found 2"),
    (lambda n, d, loss: (n, np.minimum(d, 6e9), loss), "3 different lengths of training; found 2"),
    (lambda n, d, loss: (n, d, 0 * loss + 2), "All losses are equal"),
    (lambda n, d, loss: (n, d, loss - 5), "positive numbers"),
    (lambda n, d, loss: (n, d, loss * np.nan), "positive numbers"),
  ],
  ids=["few", "one size", "two sizes", "two lengths", "equal", "negative", "nan"],
)
def test_what_cannot_be_fitted_is_refused(change, message):
  n, d = grid(4, 4)
  n, d, loss = change(n, d, CHINCHILLA.loss(n, d))
  with pytest.raises(UserError, match=message):
    scaling.fit(n, d, loss, 6 * n)


# ---------------------------------------------------------------------------- isoFLOP curves


def test_the_minimum_of_a_parabola_is_found_and_so_is_its_interval():
  sizes = np.geomspace(1e8, 1e10, 7)
  exact = 2 + 0.05 * (np.log(sizes) - np.log(7e8)) ** 2
  curve = isoflop.parabola(1e20, sizes, exact)
  assert curve.verdict == "inside"
  assert curve.minimum == pytest.approx(7e8)
  assert curve.loss(3e9) == pytest.approx(2 + 0.05 * np.log(3e9 / 7e8) ** 2)
  generator, held = np.random.default_rng(0), 0
  for _ in range(400):
    noised = isoflop.parabola(1e20, sizes, exact + 0.01 * generator.normal(size=7))
    held += noised.low <= 7e8 <= noised.high
  assert 0.92 < held / 400 < 0.98


def test_the_minimum_is_near_the_law_s_optimum():
  budget, best = 1e21, scaling.optimum(CHINCHILLA, PowerLaw(6.0, 1.0), 1e21).parameters
  sizes = np.geomspace(best / 2, best * 2, 7)
  curve = isoflop.parabola(budget, sizes, CHINCHILLA.loss(sizes, budget / (6 * sizes)))
  assert curve.minimum == pytest.approx(float(best), rel=0.02)  # the parabola's own bias


def test_curves_without_a_minimum_say_so():
  sizes, logs = np.geomspace(1e5, 1e6, 5), np.linspace(-1, 1, 5)
  upside = isoflop.parabola(1.0, sizes, 2 - logs**2)
  falling = isoflop.parabola(1.0, sizes, 2 + (logs - 3) ** 2)
  assert (upside.verdict, upside.minimum, upside.low) == ("no minimum", None, None)
  assert (falling.verdict, falling.minimum, falling.low) == ("outside", None, None)
  assert isoflop.growth([upside, falling]) is None
  with pytest.raises(UserError, match="three different sizes, found 2"):
    isoflop.parabola(1.0, [1e5, 1e5, 1e6], [2, 2, 1])


def test_three_sizes_have_an_interval_only_where_the_noise_is_known():
  sizes, losses = [1e5, 2e5, 4e5], [2.1, 2.0, 2.1]
  alone = isoflop.parabola(1.0, sizes, losses)
  assert alone.minimum == pytest.approx(2e5) and alone.low is alone.high is None
  known = isoflop.parabola(1.0, sizes, losses, noise=(0.005, 10))
  assert known.low < 2e5 < known.high
  drowned = isoflop.parabola(1.0, sizes, losses, noise=(0.2, 10))
  assert drowned.minimum == pytest.approx(2e5) and drowned.low is drowned.high is None


def test_a_grid_is_cut_at_equal_flops_and_its_minima_grow_as_the_law_says():
  n, d = grid(9, 25)
  d = d * 0.6
  cut = isoflop.slices(n, d, CHINCHILLA.loss(n, d), 6 * n)
  assert len(cut) == 4
  for budget, sizes, losses in cut:
    assert len(sizes) >= 3
    exact = CHINCHILLA.loss(np.array(sizes), budget / (6 * np.array(sizes)))
    np.testing.assert_allclose(losses, exact, rtol=2e-4)
  near = []
  for budget, sizes, losses in cut:
    best = scaling.optimum(CHINCHILLA, PowerLaw(6.0, 1.0), budget).parameters
    kept = [i for i, size in enumerate(sizes) if best / 6 < size < best * 6]
    if len(kept) > 2:
      near.append(isoflop.parabola(budget, np.array(sizes)[kept], np.array(losses)[kept]))
  assert isoflop.growth(near).exponent == pytest.approx(0.28 / 0.62, abs=0.05)
  one = n == n[0]
  assert isoflop.slices(n[one], d[one], CHINCHILLA.loss(n, d)[one], 6 * n[one]) == []


# -------------------------------------------------------------------------------- crossovers

# Steeper: worse below the middle of the range, better above it.
STEEP = dataclasses.replace(SMALL, A=197.0, B=322.0, alpha=0.5, beta=0.45)
LOW, HIGH = 1e10, 1e13


def fitted(law, noise, seed):
  n, d = grid(4, 4, large=False)
  return scaling.fit(n, d, noisy(law, n, d, noise, seed), 6 * n, resamples=100, seed=seed)


@pytest.fixture(scope="module")
def exact():
  """The fits of both without noise."""
  return fitted(SMALL, 0.0, 0), fitted(STEEP, 0.0, 1)


def truth():
  """Where the two laws cross: bisection on their optima."""
  best = lambda law, c: float(scaling.optimum(law, PowerLaw(6.0, 1.0), np.exp(c)).loss)
  gap = lambda c: best(SMALL, c) - best(STEEP, c)
  return float(np.exp(optimize.brentq(gap, np.log(LOW), np.log(HIGH))))


def test_two_known_laws_cross_where_they_should(exact):
  found = crossover(("a", "b"), exact, LOW, HIGH)
  assert (found.earlier, found.later, found.verdict, found.changes) == ("a", "b", "inside", 1)
  assert found.budget == pytest.approx(truth(), rel=0.02)
  assert found.probability == found.better == 1.0


def test_a_noisy_crossover_has_an_interval_that_holds_the_true_one():
  pair = (fitted(STEEP, 0.002, 1), fitted(SMALL, 0.002, 2))  # the other way round
  found = crossover(("b", "a"), pair, LOW, HIGH)
  assert (found.earlier, found.later, found.other) == ("a", "b", "a")
  assert LOW < found.low < truth() < found.high < HIGH
  assert found.low < found.budget < found.high and found.probability > 0.95
  cut = crossover(("b", "a"), pair, LOW, found.budget * 1.01)  # an end within the interval
  assert (cut.verdict, cut.high) == ("inside", None)
  assert cut.low == pytest.approx(found.low, rel=0.1) and 0.3 < cut.probability < 0.8


def test_where_nothing_changes_none_is_claimed():
  worse = dataclasses.replace(SMALL, E=1.3)
  found = crossover(("a", "b"), (fitted(worse, 0.001, 0), fitted(SMALL, 0.001, 1)), 1e11, 1e12)
  assert (found.verdict, found.budget, found.changes) == ("outside", None, 0)
  assert found.earlier == found.later == "b"
  assert found.probability < 0.05 and found.better > 0.95
  assert found.low is None


def test_a_crossover_beyond_the_range_is_outside_of_it(exact):
  found = crossover(("a", "b"), exact, truth() / 1e3, truth() / 3)
  assert (found.verdict, found.earlier, found.later) == ("outside", "a", "a")
  assert found.probability == 0.0
