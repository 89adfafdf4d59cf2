"""IsoFLOP curves: the loss of models of several sizes at one budget, and the size that is best.

Chinchilla's second approach (Hoffmann et al. 2022, arXiv:2203.15556, section 3.2): a parabola in
log N through each budget's losses, its minimum, and a power law through the minima. A parabola is
no law: over wide ranges of N its minimum is biased even without noise (arXiv:2603.22339), so keep
to sizes near the minimum and compare with `scaling.fit`.

Legend: R runs, P points of a curve.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import interpolate, special

from llm_jax.analysis.scaling import LEVEL, PowerLaw
from llm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Parabola:
  """Loss against log N at one budget, and where it is lowest.

  Attributes:
    budget: FLOPs.
    parameters_P, loss_P: the points, ascending in size.
    coefficients: of np.polyval in log N.
    verdict: "inside" (the minimum lies between the sizes), "outside" (the loss still falls at one
      end, so the best size lies beyond it) or "no minimum" (the parabola opens downwards).
    minimum: N of lowest loss, None unless inside.
    low, high: its interval at `scaling.LEVEL`; None where the noise leaves that end open, or where
      there is no estimate of the noise.
  """

  budget: float
  parameters_P: tuple[float, ...]
  loss_P: tuple[float, ...]
  coefficients: tuple[float, float, float]
  verdict: str
  minimum: float | None
  low: float | None
  high: float | None

  def loss(self, parameters):
    """The parabola at N."""
    return np.polyval(self.coefficients, np.log(parameters))


def parabola(
  budget: float,
  parameters_P: Sequence[float],
  loss_P: Sequence[float],
  noise: tuple[float, int] | None = None,
) -> Parabola:
  """Fits one budget's curve by least squares.

  The minimum is a quotient of two coefficients, so its interval is Fieller's (1954, J. R. Stat.
  Soc. B 16): exact for normal noise, and open where the curve may be straight.

  Args:
    budget: FLOPs, only carried along.
    parameters_P, loss_P: at least three different sizes and their losses.
    noise: standard deviation of a loss and its degrees of freedom, from elsewhere; None: from what
      the parabola leaves, which takes four points.

  Raises:
    UserError: fewer than three sizes.
  """
  order = np.argsort(parameters_P)
  sizes_P, losses_P = np.asarray(parameters_P, float)[order], np.asarray(loss_P, float)[order]
  if len({*sizes_P}) < 3:
    raise UserError(f"A parabola takes three different sizes, found {len({*sizes_P})}.")
  centre = np.log(sizes_P).mean()
  u_P = np.log(sizes_P) - centre
  terms_P3 = np.vander(u_P, 3)
  found = np.linalg.lstsq(terms_P3, losses_P, rcond=None)[0]
  if noise is None and len(u_P) > 3:
    left = ((losses_P - terms_P3 @ found) ** 2).sum()
    noise = float(np.sqrt(left / (len(u_P) - 3))), len(u_P) - 3
  curved, slope, level = (float(value) for value in found)
  best = -slope / (2 * curved) if curved > 0 else None
  verdict = "no minimum" if best is None else "inside"
  if best is not None and not u_P[0] <= best <= u_P[-1]:
    verdict, best = "outside", None
  low, high = (None, None) if best is None or noise is None else _fieller(terms_P3, found, noise)
  size = lambda u: None if u is None else float(np.exp(u + centre))
  return Parabola(
    budget=float(budget),
    parameters_P=tuple(map(float, sizes_P)),
    loss_P=tuple(map(float, losses_P)),
    coefficients=(
      curved,
      slope - 2 * curved * centre,
      level - slope * centre + curved * centre**2,
    ),
    verdict=verdict,
    minimum=size(best),
    low=size(low),
    high=size(high),
  )


def _fieller(terms_P3, found, noise) -> tuple[float | None, float | None]:
  """All u at which the slope, slope + 2 curved u, may be zero: where a quadratic is negative."""
  deviation, freedom = noise
  curved, slope, _ = found
  reach = special.stdtrit(freedom, (1 + LEVEL) / 2) ** 2 * deviation**2
  covariance = reach * np.linalg.inv(terms_P3.T @ terms_P3)
  square = 4 * (curved**2 - covariance[0, 0])
  if square <= 0:  # the curve may as well be straight
    return None, None
  middle = 4 * (curved * slope - covariance[0, 1])
  root = np.sqrt(max(0.0, middle**2 - 4 * square * (slope**2 - covariance[1, 1])))
  return (-middle - root) / (2 * square), (-middle + root) / (2 * square)


def growth(parabolas: Sequence[Parabola]) -> PowerLaw | None:
  """N_opt as a power of the budget, through the minima; None if fewer than two are inside."""
  inside = [curve for curve in parabolas if curve.minimum is not None]
  if len(inside) < 2:
    return None
  return PowerLaw.fit([curve.budget for curve in inside], [curve.minimum for curve in inside])


def slices(
  parameters_R: Sequence[float],
  tokens_R: Sequence[float],
  loss_R: Sequence[float],
  flops_per_token_R: Sequence[float],
  number: int = 4,
) -> list[tuple[float, list[float], list[float]]]:
  """Curves at equal FLOPs out of a grid of sizes and lengths of training.

  Along each size the loss between two lengths is read off a monotone cubic in (log FLOPs, log
  loss) (Fritsch & Carlson 1980), never beyond the lengths that were trained. Several seeds of a
  cell are averaged.

  Args:
    parameters_R, tokens_R, loss_R, flops_per_token_R: of each run.
    number: how many budgets, spread over the range in which at least three sizes have a loss.

  Returns:
    (budget, sizes, losses) each, ascending; empty if no budget is shared by three sizes.
  """
  paths = []
  for size in sorted({*parameters_R}):
    cells: dict[float, list[float]] = {}
    for n, d, loss, cost in zip(parameters_R, tokens_R, loss_R, flops_per_token_R, strict=True):
      if n == size:
        cells.setdefault(d * cost, []).append(loss)
    if len(cells) > 1:
      flops = sorted(cells)
      losses = [np.mean(cells[budget]) for budget in flops]
      curve = interpolate.PchipInterpolator(np.log(flops), np.log(losses), extrapolate=False)
      paths.append((size, flops[0], flops[-1], curve))
  # Three sizes share what lies between the third start and the third end from above.
  starts, ends = sorted(p[1] for p in paths), sorted((p[2] for p in paths), reverse=True)
  if len(paths) < 3 or starts[2] >= ends[2]:
    return []
  made = []
  for budget in np.geomspace(starts[2], ends[2], number):
    near = np.clip(budget, starts[2], ends[2])  # geomspace rounds its ends
    shared = [
      (size, curve(np.log(near))) for size, low, high, curve in paths if low <= near <= high
    ]
    if len(shared) > 2:
      made.append((float(near), [s for s, _ in shared], [float(np.exp(v)) for _, v in shared]))
  return made
