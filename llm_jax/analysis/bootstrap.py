"""Scores over several tasks as one number, and how far seeds and tasks leave it open.

Means, interquartile means and ranks over tasks with stratified bootstrap intervals: the seeds of
each task are drawn anew, the same for all architectures (Agarwal et al. 2021, "Deep RL at the edge
of the statistical precipice", arXiv:2108.13264, section 4 and appendix A.3). That paper had many
seeds; of R, a plain bootstrap shows (R - 1) / R of the variance, a third too little at three. So a
draw holds R - 1 seeds of R, which gives the whole (Rao & Wu 1988, J. Am. Stat. Assoc. 83).

Legend: N draws, T tasks, A architectures, R seeds.
"""

import dataclasses

import numpy as np
from scipy import stats

DRAWS = 2000


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A number and the ends of its interval; the ends are None for one seed."""

  value: float
  low: float | None
  high: float | None


@dataclasses.dataclass(frozen=True)
class Aggregate:
  """One architecture over all tasks.

  Attributes:
    mean: over tasks and seeds, these tasks.
    middle: interquartile mean of all runs, these tasks: the mean of what is neither among the best
      quarter of them nor among the worst.
    rank: mean over these tasks of the rank among all architectures, 1 being best.
    behind: best mean of all architectures minus this one's, over tasks like these: here the tasks
      are drawn anew too. The ends are None for one task as well.
  """

  mean: Estimate
  middle: Estimate
  rank: Estimate
  behind: Estimate


def aggregate(
  scores_TAR: np.ndarray, *, coverage: float = 0.95, resolution: float = 0.0
) -> list[Aggregate]:
  """The aggregate of each architecture, in order.

  Args:
    scores_TAR: higher is better; paired over seeds.
    coverage: of each interval.
    resolution: in ranking, scores are rounded to multiples of this.
  """
  T, _, R = scores_TAR.shape
  generator = np.random.default_rng(0)
  best = int(scores_TAR.mean((0, 2)).argmax())
  same = seeds = tasks = scores_TAR[None]
  if R > 1:
    seeds = _drawn(generator, scores_TAR, np.broadcast_to(np.arange(T), (DRAWS, T)))
    if T > 1:
      tasks = _drawn(generator, scores_TAR, generator.integers(T, size=(DRAWS, T - 1)))
  estimates = (
    _estimates(_mean(same), _mean(seeds), coverage),
    _estimates(_middle(same), _middle(seeds), coverage),
    _estimates(_rank(same, resolution), _rank(seeds, resolution), coverage),
    _estimates(_behind(same, best), _behind(tasks, best), coverage),
  )
  return [Aggregate(*row) for row in zip(*estimates, strict=True)]


def _drawn(generator, scores_TAR: np.ndarray, tasks_NT: np.ndarray) -> np.ndarray:
  """R - 1 seeds of each of these tasks, for all architectures alike: (N, T, A, R - 1)."""
  R = scores_TAR.shape[2]
  seeds_NTR = generator.integers(R, size=(*tasks_NT.shape, R - 1))
  drawn_NTRA = scores_TAR.swapaxes(1, 2)[tasks_NT[..., None], seeds_NTR]
  return drawn_NTRA.swapaxes(2, 3)


def _estimates(value_1A: np.ndarray, drawn_NA: np.ndarray, coverage: float) -> list[Estimate]:
  """Values with percentile intervals; without, where nothing could be drawn."""
  if len(drawn_NA) == 1:
    return [Estimate(float(value), None, None) for value in value_1A[0]]
  low_A, high_A = np.quantile(drawn_NA, ((1 - coverage) / 2, (1 + coverage) / 2), axis=0)
  return [Estimate(*map(float, row)) for row in zip(value_1A[0], low_A, high_A, strict=True)]


def _mean(scores_NTAR: np.ndarray) -> np.ndarray:
  return scores_NTAR.mean((1, 3))


def _middle(scores_NTAR: np.ndarray) -> np.ndarray:
  N, _, A, _ = scores_NTAR.shape
  return stats.trim_mean(scores_NTAR.swapaxes(1, 2).reshape(N, A, -1), 0.25, axis=2)


def _rank(scores_NTAR: np.ndarray, resolution: float) -> np.ndarray:
  mean_NTA = scores_NTAR.mean(3)
  rounded_NTA = np.round(mean_NTA / resolution) if resolution else mean_NTA
  return stats.rankdata(-rounded_NTA, axis=2).mean(1)


def _behind(scores_NTAR: np.ndarray, best: int) -> np.ndarray:
  mean_NA = _mean(scores_NTAR)
  return mean_NA[:, [best]] - mean_NA
