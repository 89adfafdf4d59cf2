"""The response surface of a sweep: its metric against each key, and against pairs of them.

One standalone SVG. A key's panel has a dot a trial and a line through the best at each value; a
pair's panel has a cell for each two values, with the best of it, or where values are drawn at
random a dot a trial on what a kernel regression makes of all (Nadaraya 1964; Watson 1964).
"""

import dataclasses
import itertools
import math
from html import escape

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from llm_jax.analysis import svg
from llm_jax.analysis.svg import FONT, INK
from llm_jax.analysis.words import log_ticks, plain

_WIDTH, _HEIGHT = 320, 236  # of a panel
_MARGINS = {"left": 58, "right": 16, "bottom": 40, "top": 26}
_COLUMNS = 3
_HEAD = 46  # pixels of the title and the key to the marks
_MOST_VALUES = 12  # of a key; with more it is taken as continuous
_PAIRED = 3  # keys, in the order of the space
_WIDE = 4.0  # ratio of the largest value to the smallest from which an axis may be logarithmic
_WORST = 6.0  # times as far from the best as the middle: what is worse is off the scale
_KERNEL = 0.12  # standard deviation of the regression's, of an axis
_FIELD = (32, 24)  # points of its field
_MARKS = (
  "a dot is a trial (hollow: pruned), the ring the best one, a line the best at each value; "
  "a cross failed, a triangle is off the scale; dark is best"
)
_THEME = (
  "svg{color:#1b1b1b;background:#fff;font-family:system-ui,sans-serif}"
  "@media(prefers-color-scheme:dark){svg{color:#ddd;background:#161616}}"
)


@dataclasses.dataclass(frozen=True)
class Seen:
  """One trial: the values it set, what it reached (None: nothing), how it ended."""

  values: dict
  score: float | None
  state: str


class _Key:
  """One axis: where the values of a key lie on it."""

  def __init__(self, name: str, seen: list[Seen]):
    self.name = name
    values = [trial.values[name] for trial in seen if name in trial.values]
    self.numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    # Tuples and the like are equal if their texts are.
    self.values = sorted(set(values)) if self.numeric else list(dict.fromkeys(map(str, values)))
    self.few = len(self.values) <= _MOST_VALUES
    self.log = self.numeric and _is_log(self.values)

  def at(self, trial: Seen) -> float:
    value = trial.values[self.name]
    return float(value) if self.numeric else float(self.values.index(str(value)))

  def cell(self, trial: Seen) -> int:
    value = trial.values[self.name]
    return self.values.index(value if self.numeric else str(value))

  def scale(self, axis) -> None:
    """The axis of a plot that has its data: a logarithm, or names, and plain numbers."""
    if not self.numeric:
      axis.set_ticks(range(len(self.values)), labels=self.labels())
      return
    if self.log:
      axis._set_axes_scale("log")
    ticks = self.values[:: self.step] if self.few else None
    if ticks is None and self.log:
      ticks = log_ticks(*axis.get_view_interval(), 4)
    if ticks is not None:
      axis.set_ticks(ticks, labels=[plain(tick) for tick in ticks])
      axis.set_ticks([], minor=True)

  @property
  def step(self) -> int:
    """From one tick to the next, in values, so that their labels do not touch."""
    most = 6 if max(map(len, self.labels())) < 6 else 4
    return -(-len(self.values) // most)

  def labels(self) -> list[str]:
    return [plain(v) if self.numeric else v if len(v) <= 14 else f"{v[:13]}…" for v in self.values]


def _is_log(values: list[float]) -> bool:
  """Whether ascending values lie evenly by their ratios rather than by their differences."""
  if values[0] <= 0 or values[-1] < _WIDE * values[0]:
    return False
  middle = lambda x: abs(np.mean(x) - (x[0] + x[-1]) / 2) / (x[-1] - x[0])
  return middle(np.log(values)) < middle(np.array(values))


def draw(name: str, metric: str, lower: bool, seen: list[Seen]) -> str:
  """The picture as a whole SVG file.

  Args:
    name: of the sweep.
    metric: what the scores are.
    lower: whether less of it is better.
    seen: all trials.

  Returns:
    "" if no trial has a score, or no key takes two values.
  """
  reached = [trial for trial in seen if trial.score is not None]
  names = dict.fromkeys(key for trial in seen for key in trial.values)
  keys = [key for key in (_Key(name, seen) for name in names) if len(key.values) > 1]
  if not reached or not keys:
    return ""
  limits = _limits([trial.score for trial in reached], lower)
  panels = [_response(key, metric, lower, seen, limits) for key in keys]
  for one, other in itertools.combinations(keys[:_PAIRED], 2):
    both = [t for t in reached if one.name in t.values and other.name in t.values]
    if len(both) > 2:
      panels.append(_surface(one, other, metric, lower, both, limits))
  return _page(f"{name}: {metric} of {len(seen)} trials", panels)


def _limits(scores, lower):
  """The span of scores that is shown: the best, to what is not so bad that it hides the rest."""
  best, middle = (min if lower else max)(scores), float(np.median(scores))
  worst = best + _WORST * (middle - best)
  worst = min(worst, max(scores)) if lower else max(worst, min(scores))
  low, high = sorted((best, worst))
  return (low, high) if high > low else (low - 0.5, high + 0.5)


def _response(key: _Key, metric: str, lower: bool, seen: list[Seen], limits) -> str:
  """The metric over one key."""
  own = [trial for trial in seen if key.name in trial.values]
  inside = [t for t in own if t.score is not None and limits[0] <= t.score <= limits[1]]
  space = 0.08 * (limits[1] - limits[0])
  with svg.panel(_WIDTH, _HEIGHT, **_MARGINS) as axes:
    axes.set_title(key.name)
    axes.set_ylim(limits[0] - space, limits[1] + space)
    axes.locator_params(axis="y", nbins=5)
    axes.set_ylabel(metric)
    if key.few:
      axes.plot(*_envelope(key, lower, inside), color=svg.COLOURS[0], zorder=1)
    for state, face in (("complete", svg.COLOURS[0]), ("pruned", "none")):
      of = [trial for trial in inside if trial.state == state]
      x, y = [key.at(trial) for trial in of], [trial.score for trial in of]
      look = {"markerfacecolor": face, "markeredgecolor": svg.COLOURS[0], "markeredgewidth": 1.0}
      axes.plot(x, y, "o", alpha=0.75, **look)
    lost = [trial for trial in own if trial not in inside]
    border = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 3}
    for failed, marker in ((True, "x"), (False, "^" if lower else "v")):  # at the worse border
      x = [key.at(trial) for trial in lost if (trial.state == "failed") == failed]
      look = {"color": svg.COLOURS[1], "markeredgewidth": 1.6 * failed}
      axes.plot(x, [float(lower)] * len(x), marker, **look, **border)
    axes.margins(x=0.08)
    key.scale(axes.xaxis)
    label = f"{metric} by {key.name}; {len(lost)} failed or off the scale"
    if inside:
      _ring(axes, key.at, lambda trial: trial.score, lower, inside)
      best = _best(inside, lower)
      label += f"; best {best.score:.4g} at {best.values[key.name]}"
    return svg.render(axes, f"response-{key.name}", label + ".")


def _envelope(key, lower, trials):
  """The best score at each value."""
  found: dict[float, float] = {}
  for trial in trials:
    x = key.at(trial)
    found[x] = (min if lower else max)(found.get(x, trial.score), trial.score)
  return zip(*sorted(found.items()), strict=True)


def _surface(x: _Key, y: _Key, metric: str, lower: bool, trials: list[Seen], limits) -> str:
  """The metric over two keys."""
  with svg.panel(_WIDTH, _HEIGHT, **_MARGINS) as axes:
    axes.set_title(f"{metric} by both")
    axes.set_xlabel(x.name)
    axes.set_ylabel(y.name)
    axes.grid(False)
    # The best is dark, whichever way the metric goes.
    colours = matplotlib.colormaps["viridis" if lower else "viridis_r"]
    shade = lambda score: colours(Normalize(*limits, clip=True)(score))
    if x.few and y.few:
      _cells(axes, x, y, lower, trials, shade)
    else:
      _dots(axes, x, y, trials, shade, limits)
      _ring(axes, x.at, y.at, lower, trials)
    best = _best(trials, lower)
    where = f"{x.name}={best.values[x.name]} and {y.name}={best.values[y.name]}"
    label = f"{metric} by {x.name} and {y.name}; best {best.score:.4g} at {where}."
    return svg.render(axes, f"surface-{x.name}-{y.name}", label)


def _cells(axes: Axes, x: _Key, y: _Key, lower: bool, trials: list[Seen], shade) -> None:
  """A cell for each two values, with the best score of the trials that took them."""
  found: dict[tuple[int, int], float] = {}
  for trial in trials:
    at = (x.cell(trial), y.cell(trial))
    found[at] = (min if lower else max)(found.get(at, trial.score), trial.score)
  width = (_WIDTH - _MARGINS["left"] - _MARGINS["right"]) / len(x.values)
  for (column, row), score in found.items():
    colour = shade(score)
    box = ([column - 0.5, column + 0.5], row - 0.5, row + 0.5)
    axes.fill_between(*box, color=colour, linewidth=0)
    bright = sum(c * w for c, w in zip(colour, (0.3, 0.59, 0.11), strict=False)) > 0.5
    if width > 3.4 * FONT:
      ink = "#111111" if bright else "#ffffff"
      axes.text(column, row, f"{score:.3g}", ha="center", va="center", color=ink)
  axes.set_xlim(-0.5, len(x.values) - 0.5)
  axes.set_ylim(-0.5, len(y.values) - 0.5)
  for key, axis in ((x, axes.xaxis), (y, axes.yaxis)):
    axis.set_ticks(range(0, len(key.values), key.step), labels=key.labels()[:: key.step])


def _field(axes: Axes, x: _Key, y: _Key, trials: list[Seen], shade, limits) -> tuple:
  """Draws what the regression makes of all scores; returns where it reaches to, x and y."""
  scores = np.clip([trial.score for trial in trials], *limits)
  spans = [_Span([key.at(trial) for trial in trials], key.log) for key in (x, y)]
  columns, rows = (np.linspace(-0.06, 1.06, n) for n in _FIELD)
  weights_YXN = np.exp(
    -(
      (columns[None, :, None] - spans[0].within) ** 2 + (rows[:, None, None] - spans[1].within) ** 2
    )
    / (2 * _KERNEL**2)
  )
  near_YX = weights_YXN.max(-1) > math.exp(-2)  # two standard deviations from some trial
  field_YX = weights_YXN @ scores / np.maximum(weights_YXN.sum(-1), 1e-30)
  places = (spans[0].back(columns), spans[1].back(rows))
  levels = MaxNLocator(8).tick_values(*limits)
  shown = (*places, np.where(near_YX, field_YX, np.nan), levels)
  axes.contourf(
    *shown, colors=[shade(level) for level in (levels[1:] + levels[:-1]) / 2], alpha=0.5
  )
  lowest, highest = np.nanmin(shown[2]), np.nanmax(shown[2])
  flat = highest - lowest < 1e-3 * (limits[1] - limits[0])  # lines would follow its rounding
  if not flat and np.any((levels > lowest) & (levels < highest)):
    lines = axes.contour(*shown, colors=INK, linewidths=0.7, alpha=0.6)
    axes.clabel(lines, fmt="%.3g", fontsize=FONT - 2)
  return places


def _dots(axes: Axes, x: _Key, y: _Key, trials: list[Seen], shade, limits) -> None:
  """A dot a trial in the colour of its score, on the regression of all where both are numbers."""
  if x.numeric and y.numeric:
    places = _field(axes, x, y, trials, shade, limits)
    axes.set_xlim(*places[0][[0, -1]])
    axes.set_ylim(*places[1][[0, -1]])
  for trial in trials:
    look = {"markeredgecolor": INK, "markeredgewidth": 0.6, "markersize": 6}
    axes.plot([x.at(trial)], [y.at(trial)], "o", color=shade(trial.score), **look)
  axes.margins(0.1)
  x.scale(axes.xaxis)
  y.scale(axes.yaxis)


class _Span:
  """An axis from 0, its lowest value, to 1.

  Attributes:
    within: where the values lie.
  """

  def __init__(self, values: list[float], log: bool):
    self._log = log
    values = np.log(values) if log else np.array(values)
    self._low, self._size = values.min(), np.ptp(values) or 1.0
    self.within = (values - self._low) / self._size

  def back(self, within):
    values = self._low + self._size * within
    return np.exp(values) if self._log else values


def _best(trials: list[Seen], lower: bool) -> Seen:
  return min(trials, key=lambda trial: trial.score if lower else -trial.score)


def _ring(axes: Axes, x, y, lower: bool, trials: list[Seen]) -> None:
  best = _best([t for t in trials if t.state == "complete"] or trials, lower)
  look = {"markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.2}
  axes.plot([x(best)], [y(best)], "o", markersize=11, **look)


def _page(title: str, panels: list[str]) -> str:
  """Panels side by side under a title."""
  columns = max(2, min(_COLUMNS, len(panels)))  # the words above need two
  width, height = columns * _WIDTH, _HEAD + -(-len(panels) // columns) * _HEIGHT
  placed = []
  for index, panel in enumerate(panels):
    row, column = divmod(index, columns)
    place = f'x="{column * _WIDTH}" y="{_HEAD + row * _HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    placed.append(panel.replace("<svg ", f"<svg {place} ", 1))
  head = (
    f'<text x="16" y="21" font-size="15" font-weight="bold">{escape(title)}</text>'
    f'<text x="16" y="38" font-size="10.5">{_MARKS}</text>'
  )
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
    f'height="{height}"><style>{_THEME}</style><g fill="currentColor">{head}</g>'
    f"{''.join(placed)}</svg>\n"
  )
