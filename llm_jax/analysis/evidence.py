"""How many units of noise lie between architectures, and how many chance alone puts there.

A pair is judged by two t tests at once, because which one sees more depends on what nobody knows,
the share of the variance that the seed brings to all architectures alike: the paired test takes it
out, the unpaired one has more degrees of freedom. Both noises are pooled over the architectures,
since two seeds of one alone say almost nothing, but are never below the pair's own, since some
architectures are noisier than others. Taking the better of two tests, over all pairs, would claim
too much; so the distribution of the result under pure noise is simulated, and pairs are judged
from the largest down against the largest that chance makes of those not yet told apart (step-down
maxima: Westfall & Young 1993, Resampling-Based Multiple Testing, algorithm 2.8). Errors and power:
`python -m benchmarks.claims`, whose tables are in benchmarks/NOTES.md.

Legend: N draws, A architectures, R seeds (replicates), P pairs (a, b) with a < b in the order of
`numpy.triu_indices`.
"""

import functools
import math

import numpy as np
from scipy import special

DRAWS = 20_000  # a level of 4 % is met to 0.14 %


def separations(
  values_NAR: np.ndarray, noisy: int, *, alike: bool = True, floor: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
  """How far the means of each pair lie apart, and the unit to measure that in.

  The unit is the smaller of the two differences that the unpaired and the paired t test of this
  pair alone would call significant at 5 %.

  Args:
    values_NAR: tables of scores, R at least 2; the noisy architectures first.
    noisy: how many of the A have noise to be pooled; the rest is taken to have none of its own.
    alike: whether all noise is taken to be alike; if not, only the unpaired test is made.
    floor: standard deviation of one score below which no noise is believed.

  Returns:
    Absolute differences of means and their units, both (N, P).
  """
  A, R = values_NAR.shape[1:]
  a, b = np.triu_indices(A, 1)
  mean_NA = values_NAR.mean(2)
  centred_NAR = values_NAR - mean_NA[..., None]
  covariance_NAA = centred_NAR @ centred_NAR.swapaxes(1, 2) / (R - 1)
  variance_NA = np.diagonal(covariance_NAA, axis1=1, axis2=2)
  sides_P = (a < noisy).astype(float) + (b < noisy)  # how many of the two bring pooled noise
  own_NP = variance_NA[:, a] + variance_NA[:, b]

  def unit(pooled_N, own_NP, freedom):
    """Of a difference with the pooled variance on each noisy side, or its own, or the floor."""
    noise_NP = np.maximum(np.maximum(pooled_N[:, None] * sides_P, own_NP), 2 * floor**2)
    return special.stdtrit(freedom, 0.975) * np.sqrt(noise_NP / R)

  pooled_N = variance_NA[:, :noisy].mean(1) if noisy else np.zeros(len(values_NAR))
  unit_NP = unit(pooled_N, own_NP, max(noisy, 1) * (R - 1))
  if alike and noisy > 1:
    rest_NAR = centred_NAR[:, :noisy] - centred_NAR[:, :noisy].mean(1, keepdims=True)
    freedom = (noisy - 1) * (R - 1)
    within_NP = own_NP - 2 * covariance_NAA[:, a, b]
    unit_NP = np.minimum(unit_NP, unit((rest_NAR**2).sum((1, 2)) / freedom, within_NP, freedom))
  return np.abs(mean_NA[:, a] - mean_NA[:, b]), unit_NP


def ratio(difference: np.ndarray, unit: np.ndarray) -> np.ndarray:
  """Differences in their units; infinite where there is a difference and no noise."""
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.where(difference > 0, difference / unit, 0.0)


@functools.lru_cache(maxsize=32)
def chance(architectures: int, seeds: int, noisy: int, alike: bool) -> np.ndarray:
  """Ratios of equal architectures with independent, normal noise: (P, DRAWS).

  Seeds bring nothing to all architectures alike here. Where they do, the unpaired test claims less
  and the paired one as much, so this is the worst case. Noise is equal if `alike`; else half of
  the noisy ones, drawn anew each time, have a quarter of it.
  """
  generator = np.random.default_rng(0)
  values_NAR = generator.normal(size=(DRAWS, architectures, seeds))
  values_NAR[:, noisy:] = 0
  if not alike:
    scale_A = np.where(np.arange(noisy) < noisy // 2, 0.25, 1.0)
    values_NAR[:, :noisy] *= generator.permuted(np.tile(scale_A, (DRAWS, 1)), axis=1)[..., None]
  ratio_NP = ratio(*separations(values_NAR, noisy, alike=alike))
  return np.ascontiguousarray(ratio_NP.T, dtype=np.float32)


@functools.lru_cache
def alone(seeds: int, noisy: int, alike: bool, coverage: float) -> float:
  """The ratio that chance alone does not exceed, with probability `coverage`, in a single pair."""
  # The first pair is one of those with noise. Without any, units are 5 % points of the floor.
  chance_PN = chance(max(noisy, 2), seeds, noisy, alike)
  return float(np.quantile(chance_PN[0], coverage)) if noisy else 1.0


def judge(ratio_P: np.ndarray, chance_PN: np.ndarray, level: float) -> tuple[np.ndarray, float]:
  """p values, and the ratio that pairs must exceed to be told apart.

  Args:
    ratio_P: of each pair, at least one.
    chance_PN: `chance` of such a table.
    level: chance of one false claim or more that is allowed.

  Returns:
    p values (P,), corrected for the number of pairs; and the border between the last pair with a
    p value below `level` and the first above it.
  """
  draws = chance_PN.shape[1]
  order = np.argsort(ratio_P, kind="stable")
  highest_N, p_P = np.zeros(draws, chance_PN.dtype), np.empty(len(order))
  for pair in order:
    np.maximum(highest_N, chance_PN[pair], out=highest_N)
    p_P[pair] = (1 + np.count_nonzero(highest_N >= ratio_P[pair])) / (draws + 1)
  p_P[order] = np.maximum.accumulate(p_P[order][::-1])[::-1]
  # p < level is the same as fewer than `few` draws at or above the ratio.
  few = max(1, math.ceil(level * (draws + 1)) - 1)
  left = max(1, int((p_P >= level).sum()))
  return p_P, float(np.partition(chance_PN[order[:left]].max(0), draws - few)[draws - few])
