"""What a few seeds can and cannot say: means, spreads, and which pairs can be told apart.

`compare` is for one score, `table` for several tasks. Every architecture sees the same batches in
the same order under one seed, so values are paired by seed. All claims hold together: the chance
of even one false claim in a comparison, or in a whole table, is `LEVEL` where noise is normal and
alike in all architectures, and less where seeds bring something to all of them. How pairs are
judged is in `evidence`; benchmarks/NOTES.md has the simulated error and power.

What cannot be had: of two architectures with five seeds, a gap of two standard deviations over
seeds is found in 70 % if values under one seed have nothing in common, in 87 % if half of the
variance is the seed's. (With nothing in common, the best unbiased test that knows nothing of the
noise beforehand finds 75 % at this level, 79 % at 5 %.) Where one architecture of seven has three
times the noise of the others, false claims come to 6 % with five seeds and 9 % with two.

Scores that are fractions (accuracies, in [0, 1]) have very unequal noise: none where a task is
solved, much where it is half learned. So only what varies is pooled, differences within seeds are
not used, and chance is simulated with unequal noise. `RESOLUTION` is the least difference and the
least noise that is believed: 1.000 and 0.999 are equal. If any architecture solves a task under
some seeds only, a clean sweep of another may be luck, and it is taken to have noise as well. What
remains: two that solve a task by luck, beside others that never do, are told apart once in thirty
times with three seeds, as one of them solved it under all and the other under none.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from llm_jax.analysis import bootstrap, evidence

LEVEL = 0.04  # under 5 %, so that 200 comparisons of equals stay under it as a rule
COVERAGE = 0.95  # of each interval by itself
RESOLUTION = 0.01  # of fractions: differences up to this are none
SOLVED = 0.99  # a fraction from here on is the whole task


@dataclasses.dataclass(frozen=True)
class Summary:
  """One architecture over its seeds.

  Attributes:
    mean: over the seeds.
    spread: sample standard deviation (R - 1 in the denominator), None for one seed.
    values: one a seed, in the seeds' order.
    interval: low and high end of the mean's t interval on its own spread (for fractions not below
      `RESOLUTION`, and cut to [0, 1]); None for one seed. With so few seeds no bootstrap can do it:
      the range of three values covers their median 75 % of the time.
    solved: how many seeds reach `SOLVED`; None where scores are no fractions.
  """

  mean: float
  spread: float | None
  values: tuple[float, ...]
  interval: tuple[float, float] | None
  solved: int | None


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two architectures.

  Attributes:
    lower, higher: names, by their means.
    difference: mean of `higher` minus mean of `lower`, never negative.
    half_width: of the difference's interval, by itself; None without a noise estimate.
    p_value: corrected for all pairs (and tasks); None without a noise estimate.
    apart: whether the two can be told apart at `LEVEL`.
  """

  lower: str
  higher: str
  difference: float
  half_width: float | None
  p_value: float | None
  apart: bool


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Everything that may be claimed of one score.

  Attributes:
    summaries: by name, best mean first.
    pairs: every pair, smallest difference last.
    noise: pooled standard deviation of one value once architecture and seed are taken out (for
      fractions the architecture only, over those that vary); None where it cannot be estimated.
    freedom: degrees of freedom of `noise`.
    threshold: differences up to it cannot be told apart; those above can, unless the pair has more
      noise than the others. None without a noise estimate.
  """

  summaries: dict[str, Summary]
  pairs: tuple[Pair, ...]
  noise: float | None
  freedom: int
  threshold: float | None

  def apart(self, a: str, b: str) -> bool:
    """Whether two architectures can be told apart."""
    return any(pair.apart for pair in self.pairs if {pair.lower, pair.higher} == {a, b})

  def tied_with(self, name: str) -> tuple[str, ...]:
    """`name` and all that cannot be told apart from it, best mean first."""
    return tuple(other for other in self.summaries if not self.apart(name, other))

  @property
  def best_group(self) -> tuple[str, ...]:
    """The best mean and all that cannot be told apart from it; empty if that is everyone."""
    if not self.summaries:
      return ()
    tied = self.tied_with(next(iter(self.summaries)))
    return () if len(tied) == len(self.summaries) else tied


@dataclasses.dataclass(frozen=True)
class Table:
  """Everything that may be claimed of several tasks.

  Attributes:
    tasks: by task, over the architectures that have it.
    overall: of the mean over these tasks (as one more fraction), for the architectures that have
      all of them.
    aggregates: by architecture, best mean first, for the same ones.
  """

  tasks: dict[str, Comparison]
  overall: Comparison
  aggregates: dict[str, bootstrap.Aggregate]

  def record(self, a: str, b: str) -> tuple[int, int]:
    """In how many tasks `a` is told apart from `b` as the better, and as the worse."""
    apart = [task.summaries for task in self.tasks.values() if task.apart(a, b)]
    better = sum(list(names).index(a) < list(names).index(b) for names in apart)
    return better, len(apart) - better


def compare(
  values: Mapping[str, Sequence[float]],
  *,
  higher_is_better: bool = False,
  fractions: bool = False,
  family: int = 1,
) -> Comparison:
  """Compares architectures by one score.

  Args:
    values: by architecture, one finite value a seed; the same seeds in the same order for all.
    higher_is_better: which end is best.
    fractions: whether scores are fractions; see the head of this file.
    family: how many comparisons share `LEVEL` (Sidak 1967, J. Am. Stat. Assoc. 62: they are
      independent under the null).

  Raises:
    ValueError: if the numbers of seeds differ, or a value is not finite or no fraction.
  """
  _check(values, fractions)
  sign = -1 if higher_is_better else 1
  names = sorted(values, key=lambda name: (sign * float(np.mean(values[name])), name))
  summaries = {name: _summary(values[name], fractions) for name in names}
  table_AR = np.array([summaries[name].values for name in names])
  if len(names) < 2 or table_AR.shape[1] < 2:
    judged, threshold = {}, None
    noise, freedom = None, 0
  else:
    varies_A = _varies(table_AR) if fractions else np.full(len(table_AR), True)
    judged, threshold = _judged(table_AR, varies_A, fractions, family)
    noise, freedom = pooled_noise(table_AR[varies_A], paired=not fractions)
  pairs = []
  for better, worse in itertools.combinations(range(len(names)), 2):
    lower, higher = (names[row] for row in (better, worse)[::sign])
    difference = summaries[higher].mean - summaries[lower].mean
    pairs.append(Pair(lower, higher, difference, *judged.get((better, worse), (None, None, False))))
  pairs.sort(key=lambda pair: -pair.difference)
  return Comparison(summaries, tuple(pairs), noise, freedom, threshold)


def table(scores: Mapping[str, Mapping[str, Sequence[float]]], *, beside: int = 0) -> Table:
  """Compares architectures over tasks whose scores are fractions, higher being better.

  Args:
    scores: by task and architecture, one value a seed; the same seeds everywhere. An architecture
      may be missing in a task, which leaves it out of what is said over all tasks.
    beside: how many comparisons of other scores share `LEVEL` with the table.

  Raises:
    ValueError: if the numbers of seeds differ, or a value is not finite or no fraction.
  """
  lengths = {len(row) for rows in scores.values() for row in rows.values()}
  if len(lengths) > 1:
    raise ValueError(f"every task needs the same seeds, found counts {sorted(lengths)}")
  options = {"higher_is_better": True, "fractions": True, "family": len(scores) + 1 + beside}
  tasks = {name: compare(rows, **options) for name, rows in scores.items()}
  everywhere = [
    name
    for name in dict.fromkeys(itertools.chain.from_iterable(scores.values()))
    if all(name in rows for rows in scores.values())
  ]
  scores_TAR = np.array([[rows[name] for name in everywhere] for rows in scores.values()])
  if not everywhere:
    return Table(tasks, compare({}), {})
  overall = compare(dict(zip(everywhere, scores_TAR.mean(0), strict=True)), **options)
  aggregates = bootstrap.aggregate(scores_TAR, coverage=COVERAGE, resolution=RESOLUTION)
  named = dict(zip(everywhere, aggregates, strict=True))
  return Table(tasks, overall, {name: named[name] for name in overall.summaries})


def pooled_noise(table_AR: np.ndarray, *, paired: bool = True) -> tuple[float | None, int]:
  """Standard deviation left when each architecture's mean (and each seed's) is taken out.

  Args:
    table_AR: one row an architecture, one column a seed.
    paired: whether the seeds' means are taken out too.

  Returns:
    The standard deviation and its (A - 1) (R - 1) degrees of freedom, or A (R - 1) if not paired;
    None and 0 if there are none.
  """
  if table_AR.ndim != 2:
    return None, 0
  freedom = (table_AR.shape[0] - paired) * (table_AR.shape[1] - 1)
  if freedom < 1:
    return None, 0
  rest_AR = table_AR - table_AR.mean(1, keepdims=True)
  if paired:
    rest_AR = rest_AR - rest_AR.mean(0)
  return float(np.sqrt((rest_AR**2).sum() / freedom)), int(freedom)


def _check(values: Mapping[str, Sequence[float]], fractions: bool) -> None:
  lengths = {len(row) for row in values.values()}
  if len(lengths) > 1 or 0 in lengths:
    raise ValueError(f"every architecture needs a value for every seed, found counts {lengths}")
  table_AR = np.array([list(row) for row in values.values()], dtype=np.float64)
  if not np.isfinite(table_AR).all():
    raise ValueError("every value must be finite")
  if fractions and ((table_AR < 0) | (table_AR > 1)).any():
    raise ValueError(f"fractions lie in [0, 1], found {table_AR.min()} to {table_AR.max()}")


def _summary(row: Sequence[float], fractions: bool) -> Summary:
  values = tuple(float(value) for value in row)
  mean, count = float(np.mean(values)), len(values)
  solved = sum(value >= SOLVED for value in values) if fractions else None
  if count == 1:
    return Summary(mean, None, values, None, solved)
  spread = float(np.std(values, ddof=1))
  noise = max(spread, RESOLUTION) if fractions else spread
  half = float(special.stdtrit(count - 1, (1 + COVERAGE) / 2) * noise / np.sqrt(count))
  low, high = mean - half, mean + half
  return Summary(
    mean, spread, values, (max(low, 0.0), min(high, 1.0)) if fractions else (low, high), solved
  )


def _varies(table_AR: np.ndarray) -> np.ndarray:
  """Which architectures have noise: not those that solve or fail a task under every seed.

  All have, if one solves it under some seeds only.
  """
  solved_AR = table_AR >= SOLVED
  if (solved_AR.any(1) & ~solved_AR.all(1)).any():
    return np.full(len(table_AR), True)
  return ~(solved_AR.all(1) | (table_AR <= 1 - SOLVED).all(1))


def _judged(
  table_AR: np.ndarray, varies_A: np.ndarray, fractions: bool, family: int
) -> tuple[dict[tuple[int, int], tuple[float, float, bool]], float]:
  """By pair of rows: half width, p value and whether apart; and the threshold."""
  A, R = table_AR.shape
  noisy, floor = int(varies_A.sum()), RESOLUTION if fractions else 0.0
  order = np.argsort(~varies_A, kind="stable")
  units = evidence.separations(table_AR[None, order], noisy, alike=not fractions, floor=floor)
  difference_P, unit_P = (of_1P[0] for of_1P in units)
  seen_P = difference_P > floor + 1e-9  # 1.00 - 0.99 is more than 0.01 in floating point
  ratio_P = np.where(seen_P, evidence.ratio(difference_P, unit_P), 0.0)
  chance_PN = evidence.chance(A, R, noisy, not fractions)
  level = 1 - (1 - LEVEL) ** (1 / family)
  p_P, border = evidence.judge(ratio_P, chance_PN, level)
  alone = evidence.alone(R, noisy, not fractions, COVERAGE)
  judged = {
    tuple(sorted((int(order[a]), int(order[b])))): (
      float(alone * unit_P[p]),
      float(1 - (1 - p_P[p]) ** family),
      bool(p_P[p] < level),
    )
    for p, (a, b) in enumerate(zip(*np.triu_indices(A, 1), strict=True))
  }
  return judged, max(border * float(unit_P.min()), floor)
