"""What a few seeds can and cannot say: means, spreads, and which pairs can be told apart.

Every architecture sees the same batches in the same order under one seed, so a seed is a block:
value = architecture + seed + noise (Fisher 1935, The Design of Experiments, randomised blocks).
The noise is estimated from all architectures together, because two seeds of one architecture
alone say almost nothing about it. Each pair's difference is tested with a t test on that pooled
noise, and the p values of all pairs are corrected after Holm 1979 (Scand. J. Statist. 6), so that
the chance of even one false claim in the whole report stays below `LEVEL`.

Legend: A architectures, R seeds (replicates).
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Summary:
  """One architecture over its seeds.

  Attributes:
    mean: over the seeds.
    spread: sample standard deviation (R - 1 in the denominator), None for one seed.
    values: one a seed, in the seeds' order.
  """

  mean: float
  spread: float | None
  values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two architectures, the lower mean first.

  Attributes:
    lower, higher: names.
    difference: mean of `higher` minus mean of `lower`, never negative.
    p_value: of the two-sided t test, after Holm's correction; None without a noise estimate.
    apart: whether the two can be told apart at `LEVEL`.
  """

  lower: str
  higher: str
  difference: float
  p_value: float | None
  apart: bool


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Everything the report may claim.

  Attributes:
    summaries: by name, sorted by mean, lowest first.
    pairs: every pair, smallest difference last.
    noise: pooled standard deviation of one value once architecture and seed are taken out, None
      where it cannot be estimated (one seed or one architecture).
    freedom: degrees of freedom of `noise`.
    interval: half width of the `1 - LEVEL` interval of one pair's difference, uncorrected.
    threshold: differences above it can be told apart, those below cannot; None without `noise`.
  """

  summaries: dict[str, Summary]
  pairs: tuple[Pair, ...]
  noise: float | None
  freedom: int
  interval: float | None
  threshold: float | None

  def apart(self, a: str, b: str) -> bool:
    """Whether two architectures can be told apart."""
    return any(pair.apart for pair in self.pairs if {pair.lower, pair.higher} == {a, b})

  def tied_with(self, name: str) -> tuple[str, ...]:
    """`name` and all that cannot be told apart from it, lowest mean first."""
    return tuple(other for other in self.summaries if not self.apart(name, other))

  @property
  def best_group(self) -> tuple[str, ...]:
    """The lowest mean and all that cannot be told apart from it; empty if that is everyone."""
    if not self.summaries:
      return ()
    tied = self.tied_with(next(iter(self.summaries)))
    return () if len(tied) == len(self.summaries) else tied


def compare(values: Mapping[str, Sequence[float]]) -> Comparison:
  """Compares architectures, lower being better.

  Args:
    values: by architecture, one finite value a seed; the same seeds in the same order for all.

  Raises:
    ValueError: if the numbers of seeds differ or a value is not finite.
  """
  lengths = {len(row) for row in values.values()}
  if len(lengths) > 1 or 0 in lengths:
    raise ValueError(f"every architecture needs a value for every seed, found counts {lengths}")
  table_AR = np.array([list(row) for row in values.values()], dtype=np.float64)
  if not np.isfinite(table_AR).all():
    raise ValueError("every value must be finite")
  summaries = {name: _summary(row) for name, row in values.items()}
  summaries = dict(sorted(summaries.items(), key=lambda item: item[1].mean))
  noise, freedom = pooled_noise(table_AR)
  return _tested(summaries, noise, freedom, seeds=max(lengths, default=0))


def pooled_noise(table_AR: np.ndarray) -> tuple[float | None, int]:
  """Standard deviation left when each architecture's and each seed's mean are taken out.

  Args:
    table_AR: one row an architecture, one column a seed.

  Returns:
    The standard deviation and its (A - 1) (R - 1) degrees of freedom; None and 0 if there are none.
  """
  if table_AR.ndim != 2:
    return None, 0
  freedom = (table_AR.shape[0] - 1) * (table_AR.shape[1] - 1)
  if freedom < 1:
    return None, 0
  mean_A1, mean_1R = table_AR.mean(1, keepdims=True), table_AR.mean(0, keepdims=True)
  residual_AR = table_AR - mean_A1 - mean_1R + table_AR.mean()
  return float(np.sqrt((residual_AR**2).sum() / freedom)), freedom


def holm(p_values: Sequence[float]) -> list[float]:
  """Holm's step-down correction: adjusted p values, in the order given."""
  order = np.argsort(p_values, kind="stable")
  adjusted, highest = [0.0] * len(order), 0.0
  for rank, index in enumerate(order):
    highest = max(highest, min(1.0, (len(order) - rank) * float(p_values[index])))
    adjusted[index] = highest
  return adjusted


def _summary(row: Sequence[float]) -> Summary:
  spread = float(np.std(row, ddof=1)) if len(row) > 1 else None
  return Summary(float(np.mean(row)), spread, tuple(float(value) for value in row))


def _tested(summaries, noise, freedom, seeds) -> Comparison:
  """The comparison of sorted summaries, given the pooled noise."""
  found = [
    (a, b, summaries[b].mean - summaries[a].mean) for a, b in itertools.combinations(summaries, 2)
  ]
  found.sort(key=lambda item: -item[2])
  if noise is None:
    pairs = tuple(Pair(a, b, difference, None, False) for a, b, difference in found)
    return Comparison(summaries, pairs, None, 0, None, None)
  error = noise * np.sqrt(2 / seeds)
  p_values = holm([_two_sided(difference, error, freedom) for _, _, difference in found])
  pairs = tuple(
    Pair(a, b, difference, p, p < LEVEL)
    for (a, b, difference), p in zip(found, p_values, strict=True)
  )
  # One design, one standard error: Holm's steps are one threshold, that of the first pair to fail.
  left = max(1, sum(not pair.apart for pair in pairs))
  quantile = lambda level: float(special.stdtrit(freedom, 1 - level / 2) * error)
  return Comparison(summaries, pairs, noise, freedom, quantile(LEVEL), quantile(LEVEL / left))


def _two_sided(difference: float, error: float, freedom: int) -> float:
  """p value of a difference with this standard error, under Student's t."""
  if error == 0:
    return 1.0 if difference == 0 else 0.0
  return float(2 * special.stdtr(freedom, -abs(difference) / error))
