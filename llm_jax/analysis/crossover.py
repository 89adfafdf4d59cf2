"""Where two scaling laws cross: the budget from which on the other architecture is the better one.

What is compared is the best that each law promises for a budget, at its own best size and length
(`scaling.optimum`), each with its own cost of a token.

Legend: S resamples, P budgets.
"""

import dataclasses

import numpy as np

from llm_jax.analysis.scaling import LEVEL, Fit

_BUDGETS = 100  # on which the sign of the difference is looked at


@dataclasses.dataclass(frozen=True)
class Crossover:
  """Two architectures over a range of budgets.

  Attributes:
    names: of the two.
    range: FLOPs within which a crossover was looked for.
    earlier: the better one at the low end of the range.
    later: the better one at its high end; the same as `earlier` if nothing changes, or twice.
    budget: FLOPs from which on `later` is the better up to the end; None if nothing changes.
    changes: how often the better one changes within the range; 2 means there and back.
    probability: the part of the resampled pairs in which it changes within the range.
    low, high: interval of `budget` at `scaling.LEVEL` over all resampled pairs. None: that end is
      outside of the range.
    better: the part of the resampled pairs in which `later` is the better at the high end.
  """

  names: tuple[str, str]
  range: tuple[float, float]
  earlier: str
  later: str
  budget: float | None
  changes: int
  probability: float
  low: float | None
  high: float | None
  better: float

  @property
  def other(self) -> str:
    """The one that is not `later`."""
    return next(name for name in self.names if name != self.later)

  @property
  def verdict(self) -> str:
    """Where the change is, of the range: "inside" or "outside"."""
    return "outside" if self.budget is None else "inside"


def crossover(names: tuple[str, str], fits: tuple[Fit, Fit], low: float, high: float) -> Crossover:
  """Compares two fits, resample by resample.

  Fits of one seed and one grid drew the same cells, so what both miss together cancels.

  Args:
    names: of the two architectures.
    fits: theirs, with equally many resamples.
    low, high: FLOPs, the range of budgets that is asked about.
  """
  budgets_P = np.geomspace(low, high, _BUDGETS)
  (first, first_SP), (second, second_SP) = (
    (found.loss, resampled.loss) for found, resampled in (f.optimum(budgets_P) for f in fits)
  )
  behind_P, behind_SP = first - second, first_SP - second_SP
  if behind_P[-1] < 0:  # turned, so that the second is the better at the high end
    names, behind_P, behind_SP = names[::-1], -behind_P, -behind_SP
  changes = int((np.diff(behind_P > 0) != 0).sum())
  last = _last_change(behind_P[None], budgets_P)[0]
  last_S = _last_change(behind_SP, budgets_P)
  # "lower" and "higher" keep infinities whole: half of one is no budget.
  ends = [
    float(np.quantile(last_S, q, method=method))
    for q, method in (((1 - LEVEL) / 2, "lower"), ((1 + LEVEL) / 2, "higher"))
  ]
  within = lambda value: float(value) if np.isfinite(value) else None
  return Crossover(
    names=names,
    range=(float(low), float(high)),
    earlier=names[int(behind_P[0] > 0)],
    later=names[int(behind_P[-1] > 0)],
    budget=within(last),
    changes=changes,
    probability=float((np.diff(behind_SP > 0, axis=1) != 0).any(1).mean()),
    low=within(ends[0]),
    high=within(ends[1]),
    better=float((behind_SP[:, -1] > 0).mean()),
  )


def _last_change(behind_SP, budgets_P):
  """(S,): the budget from which on `behind` stays positive; -inf: from below the range, inf: not
  within it."""
  positive_SP = behind_SP > 0
  turns_SP = positive_SP[:, 1:] & ~positive_SP[:, :-1]
  at_S = turns_SP.shape[1] - 1 - np.argmax(turns_SP[:, ::-1], axis=1)  # the last one
  row_S = np.arange(len(behind_SP))
  before_S, after_S = behind_SP[row_S, at_S], behind_SP[row_S, at_S + 1]
  gap_S = np.where(after_S == before_S, 1.0, after_S - before_S)
  share_S = np.clip(-before_S / gap_S, 0, 1)  # a straight line between two budgets
  log_P = np.log(budgets_P)
  crossed_S = np.exp(log_P[at_S] + share_S * (log_P[at_S + 1] - log_P[at_S]))
  last_S = np.where(turns_SP.any(1), crossed_S, -np.inf)
  return np.where(positive_SP[:, -1], last_S, np.inf)
