"""Kinds of panels: curves with bands, fits, scores by length, log-log lines, scatter, responses.

Every line is labelled at its end, in the page's ink beside its own marker: a colour alone would
be too weak to read on white and says nothing to those who do not see it.
"""

import dataclasses
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from llm_jax.analysis import svg
from llm_jax.analysis.svg import FONT, INK, Style
from llm_jax.analysis.words import log_ticks, plain

WIDTH, HEIGHT = 345, 250
LETTER = 0.6 * FONT  # width of one, in the widest of the fonts that a page may get
MARGINS = {"left": 34, "right": 12, "bottom": 36, "top": 24}


@dataclasses.dataclass(frozen=True)
class Line:
  """One architecture in a panel.

  Attributes:
    style: how it is drawn.
    label: what stands at its end.
    x, y: the points.
    low, high: the band behind the line, or None.
    theory: (x, y) of the analytic line beside measured dots; empty if there is none.
    measured: (x, y) of the dots that a fitted line goes through.
    marks: (x, y, low, high) on the line that get a ring, and a bar over the interval of x; None:
      that end is open.
  """

  style: Style
  label: str
  x: Sequence[float]
  y: Sequence[float]
  low: Sequence[float] | None = None
  high: Sequence[float] | None = None
  theory: Sequence[tuple[float, float]] = ()
  measured: Sequence[tuple[float, float]] = ()
  marks: Sequence[tuple[float, float, float | None, float | None]] = ()


def curves(
  name: str, title: str, x_label: str, lines: list[Line], limits: tuple[float, float]
) -> str:
  """Lines with bands over a logarithmic x axis; `limits` are those of the y axis."""
  with svg.panel(WIDTH, HEIGHT, **MARGINS | _room(lines)) as axes:
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_xscale("log")
    axes.set_ylim(*limits)
    for line in lines:
      if line.low is not None:
        axes.fill_between(
          line.x, line.low, line.high, color=line.style.colour, alpha=0.18, linewidth=0
        )
      axes.plot(line.x, line.y, **line.style.line)
    axes.set_xlim(*_visible(lines, limits[1]))
    _log_axis(axes.xaxis, plain, 5)
    _label_ends(axes, lines)
    ends = ", ".join(f"{line.label} {line.y[-1]:.2f} at {plain(line.x[-1])}" for line in lines)
    return svg.render(axes, name, f"{title}, by {x_label}. Ends: {ends}.")


def fits(
  name: str,
  title: str,
  x_label: str,
  lines: list[Line],
  limits: tuple[float, float],
  beyond: float | None = None,
) -> str:
  """Fitted lines with bands through measured dots, over a logarithmic x axis.

  Args:
    limits: of the y axis.
    beyond: the x from which on nothing was measured; what lies there is shaded.
  """
  with svg.panel(WIDTH, HEIGHT, **MARGINS | _room(lines)) as axes:
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_xscale("log")
    axes.set_ylim(*limits)
    for line in lines:
      colour = {"color": line.style.colour}
      if line.low is not None:
        axes.fill_between(line.x, line.low, line.high, alpha=0.18, linewidth=0, **colour)
      axes.plot(line.x, line.y, **line.style.line)
      dots = {"marker": line.style.marker, "markersize": 4, "linestyle": "none"}
      axes.plot(*zip(*line.measured, strict=True) if line.measured else ((), ()), **dots, **colour)
    xs = [x for line in lines for x in (*line.x, *(x for x, _ in line.measured))]
    ends = min(xs) / 1.04, max(xs) * 1.04
    axes.set_xlim(*ends)
    for x, y, *known in (mark for line in lines for mark in line.marks):
      ring = {"markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.1}
      axes.plot([x], [y], "o", markersize=10, **ring)
      bar = [end if value is None else value for value, end in zip(known, ends, strict=True)]
      axes.plot(bar, [y, y], color=INK, linewidth=1.1)
    if beyond is not None:
      axes.axvspan(beyond, ends[1], color=INK, alpha=0.07, linewidth=0)
    _log_axis(axes.xaxis, plain, 5)
    _label_ends(axes, lines)
    said = ", ".join(f"{line.label} {line.y[-1]:.2f} at {plain(line.x[-1])}" for line in lines)
    return svg.render(axes, name, f"{title}, by {x_label}. Ends: {said}.")


def logarithmic(
  name: str, title: str, x_label: str, lines: list[Line], show: Callable[[float], str]
) -> str:
  """Measured dots over two logarithmic axes, on their analytic line where there is one.

  Args:
    show: writes a value of the y axis.
  """
  with svg.panel(WIDTH, HEIGHT, **MARGINS | _room(lines) | {"left": 52}) as axes:
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for line in lines:
      if line.theory:
        axes.plot(*zip(*line.theory, strict=True), **line.style.line | {"linewidth": 1.2})
      look = {"linestyle": "none", "color": line.style.colour} if line.theory else line.style.line
      axes.plot(line.x, line.y, marker=line.style.marker, **look)
    contexts = sorted({x for line in lines for x in line.x})
    _ticks(axes.xaxis, contexts[:: -(-len(contexts) // 4)] if contexts else [], plain)
    _log_axis(axes.yaxis, show, 5)
    _label_ends(axes, lines)
    ends = ", ".join(f"{line.label} {show(line.y[-1])} at {plain(line.x[-1])}" for line in lines)
    return svg.render(axes, name, f"{title}, by {x_label}. {ends}.")


def lengths(
  name: str,
  title: str,
  x_label: str,
  lines: list[Line],
  limits: tuple[float, float],
  trained: float | None = None,
  guessing: Sequence[tuple[float, float]] = (),
) -> str:
  """Scores over the lengths of held-out examples, logarithmic.

  Args:
    limits: of the y axis.
    trained: the greatest length in training; gets an upright line.
    guessing: (x, y) of what guessing reaches, dashed.
  """
  with svg.panel(WIDTH, HEIGHT, **MARGINS | _room(lines)) as axes:
    axes.set_title(title, pad=16 if trained else None)
    axes.set_xlabel(x_label)
    axes.set_xscale("log")
    axes.set_ylim(*limits)
    for line in lines:
      if line.low is not None:
        axes.fill_between(
          line.x, line.low, line.high, color=line.style.colour, alpha=0.14, linewidth=0
        )
      axes.plot(line.x, line.y, marker=line.style.marker, **line.style.line)
    if guessing:
      axes.plot(*zip(*guessing, strict=True), color=INK, linewidth=1, linestyle=(0, (2, 2)))
    if trained:
      axes.axvline(trained, color=INK, linewidth=0.9)
      at = {"transform": axes.get_xaxis_transform(), "va": "bottom", "fontsize": FONT - 1.5}
      axes.text(trained, 1.01, f"trained up to {plain(trained)}", **at)
    inside = sorted({x for line in lines for x in line.x})
    low, high = (pick([*inside, trained or inside[0]]) for pick in (min, max))
    room = (high / low) ** 0.06
    axes.set_xlim(low / room, high * room)
    _ticks(axes.xaxis, inside[:: -(-len(inside) // 6)], plain)
    _label_ends(axes, lines)
    ends = ", ".join(f"{line.label} {line.y[-1]:.2f} at {plain(line.x[-1])}" for line in lines)
    return svg.render(axes, name, f"{title}, by {x_label}. Ends: {ends}.")


def scatter(
  name: str,
  score: str,
  cost: str,
  lines: list[Line],
  show: Callable[[float], str],
  digits: int = 3,
  limits: tuple[float, float] | None = None,
) -> str:
  """One point an architecture with its spread: a score over a logarithmic cost.

  Args:
    show: writes a cost.
    digits: of a score.
    limits: of the y axis; None: as wide as it must be.
  """
  with svg.panel(WIDTH, HEIGHT, **MARGINS) as axes:
    axes.set_title(score, pad=9)
    axes.set_xlabel(cost)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.14)
    for line in lines:
      axes.plot([line.x[0]] * 2, [line.low[0], line.high[0]], color=line.style.colour)
      axes.plot(line.x, line.y, line.style.marker, color=line.style.colour, markersize=7)
    if limits:
      axes.set_ylim(*limits)
    _log_axis(axes.xaxis, show, 4)
    _label_points(axes, lines)
    points = ", ".join(
      f"{line.label} {line.y[0]:.{digits}f} at {show(line.x[0])}" for line in lines
    )
    return svg.render(axes, name, f"{score} by {cost}: {points}.")


def responses(
  name: str,
  title: str,
  score: str,
  own: dict[str, Sequence[tuple[float, float | None]]],
  others: list[Sequence[tuple[float, float | None]]],
  style: Style,
  chosen: tuple[float, str] | None,
  limits: tuple[float, float],
  rates: list[float],
  worst: float,
) -> str:
  """A score over the learning rate: one architecture in front of all the others.

  Args:
    score: its words.
    own: by weight decay, (learning rate, score or None where training failed), ascending. Of
      several weight decays each line is labelled, and that of the chosen one is the strongest.
    others: the same of other architectures, for lines behind.
    chosen: the learning rate and weight decay that were picked; they get a ring.
    limits: of the y axis; what lies beyond the worse one, or failed, is a cross at that border.
    rates: every rate that was tried, for a shared x axis.
    worst: which limit is the worse one.
  """
  lines = [
    Line(style, decay, *zip(*found, strict=True))
    for decay, trials in own.items()
    if (found := [trial for trial in trials if trial[1] is not None])
  ]
  room = _room(lines) if len(own) > 1 and lines else {"right": 8}
  with svg.panel(188, 150, **{"left": 34, "bottom": 30, "top": 20} | room) as axes:
    axes.set_title(title)
    axes.set_xscale("log")
    axes.set_xlim(rates[0] / 1.4, rates[-1] * 1.4)
    axes.set_ylim(*limits)
    for trials in others:
      reached = [trial for trial in trials if trial[1] is not None]
      if reached:
        axes.plot(*zip(*reached, strict=True), color=INK, alpha=0.22, linewidth=0.9)
    for line in lines:
      look = {} if len(own) == 1 or (chosen and line.label == chosen[1]) else {"alpha": 0.5}
      axes.plot(line.x, line.y, marker=style.marker, **style.line, **look)
    sign = 1 if worst == limits[1] else -1
    lost = [r for t in own.values() for r, s in t if s is None or sign * s > sign * worst]
    border = {"transform": axes.get_xaxis_transform(), "clip_on": False, "markersize": 6}
    at = [0.97 if sign > 0 else 0.03] * len(lost)
    axes.plot(lost, at, "x", color=style.colour, markeredgewidth=1.6, **border)
    picked = dict(own.get(chosen[1], ())).get(chosen[0]) if chosen else None
    if picked is not None:
      ring = {"markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.1}
      axes.plot([chosen[0]], [picked], "o", markersize=11, **ring)
    _ticks(axes.xaxis, rates[:: -(-len(rates) // 4)], plain)
    axes.locator_params(axis="y", nbins=4)
    if len(own) > 1 and lines:
      _label_ends(axes, lines)
    return svg.render(axes, name, f"{title}: {score} by learning rate. {_said(own)}")


def _said(own: dict[str, Sequence[tuple[float, float | None]]]) -> str:
  """The trials of a grid in words."""
  rows = []
  for decay, trials in own.items():
    said = [f"{plain(r)}: {'failed' if s is None else format(s, '.2f')}" for r, s in trials]
    rows.append((f"Weight decay {decay}: " if len(own) > 1 else "") + ", ".join(said) + ".")
  return " ".join(rows)


def _visible(lines: list[Line], top: float) -> tuple[float, float]:
  """The x range from where the first line comes down into view."""
  first = min(
    min([x for x, y in zip(line.x, line.y, strict=True) if y <= top], default=line.x[-1])
    for line in lines
  )
  return first, 1.04 * max(line.x[-1] for line in lines)


def _ticks(axis, values: Sequence[float], show: Callable[[float], str]) -> None:
  """Ticks at these values and nowhere else, in plain numbers."""
  axis.set_ticks(list(values), labels=[show(value) for value in values])
  axis.set_ticks([], minor=True)


def _log_axis(axis, show: Callable[[float], str], most: int) -> None:
  """Plain ticks of a logarithmic axis."""
  low, high = axis.get_view_interval()
  if high < 1.5 * low:  # next to no range: open it, or no round number may lie inside
    low, high = low / 1.5, high * 1.5
    axis.axes.set(**{f"{axis.axis_name}lim": (low, high)})
  _ticks(axis, log_ticks(low, high, most), show)


def _room(lines: list[Line]) -> dict[str, float]:
  """The right margin that the longest label needs."""
  return {"right": 24 + LETTER * max(len(line.label) for line in lines)}


def _label_ends(axes: Axes, lines: list[Line]) -> None:
  """Each line's label right of the plot, moved apart and tied to its end by a thin leader."""
  ends, gap = _ends(axes, lines)
  heights = spread_apart([y for _, y in ends], gap)
  for line, (x, y), label_y in zip(lines, ends, heights, strict=True):
    fixed = {"transform": axes.transAxes, "clip_on": False, "color": line.style.colour}
    axes.plot([x, 1.035], [y, label_y], linewidth=0.7, alpha=0.55, **fixed)
    axes.plot([1.055], [label_y], line.style.marker, markersize=5, **fixed)
    axes.text(1.085, label_y, line.label, transform=axes.transAxes, va="center")


def _label_points(axes: Axes, lines: list[Line]) -> None:
  """Each point's label beside it, on the side with more room, none upon another."""
  ends, gap = _ends(axes, lines)
  width = axes.figure.bbox.width * axes.get_position().width
  spans = []  # of each label, in fractions of the axes
  for line, (x, _) in zip(lines, ends, strict=True):
    length = 0.035 + LETTER * len(line.label) / width
    left, right = (x, x + length) if x < 0.6 else (x - length, x)
    spans.append((left - 0.02, right + 0.02))
  heights = [0.0] * len(lines)
  for block in overlapping(spans):
    moved = spread_apart([ends[i][1] for i in block], gap)
    for i, height in zip(block, moved, strict=True):
      heights[i] = height
  for line, (x, y), label_y in zip(lines, ends, heights, strict=True):
    side, beside = ("left", x + 0.035) if x < 0.6 else ("right", x - 0.035)
    leader = {"color": line.style.colour, "linewidth": 0.7, "alpha": 0.55}
    axes.plot([x, beside], [y, label_y], transform=axes.transAxes, **leader)
    axes.text(beside, label_y, line.label, transform=axes.transAxes, va="center", ha=side)


def _ends(axes: Axes, lines: list[Line]) -> tuple[list[tuple[float, float]], float]:
  """Where the lines end, in fractions of the axes, and the height of a label."""
  to_axes = axes.transData + axes.transAxes.inverted()
  ends = [to_axes.transform((line.x[-1], line.y[-1])) for line in lines]
  height = axes.figure.bbox.height * axes.get_position().height
  return [(x, min(1.0, max(0.0, y))) for x, y in ends], 1.25 * FONT / height


def overlapping(spans: Sequence[tuple[float, float]]) -> list[list[int]]:
  """Groups of intervals that hang together by overlaps."""
  groups, border = [], float("-inf")
  for i in sorted(range(len(spans)), key=lambda i: spans[i]):
    if spans[i][0] >= border:
      groups.append([])
    groups[-1].append(i)
    border = max(border, spans[i][1])
  return groups


def spread_apart(positions: Sequence[float], gap: float) -> list[float]:
  """Moves positions in [0, 1] as little as needed to keep `gap` between neighbours.

  Neighbours that collide move as one block around their mean (isotonic regression by pooling);
  the whole is then kept inside [0, 1], and goes past 1 only if it is longer than that.
  """
  order = sorted(range(len(positions)), key=lambda i: positions[i])
  blocks: list[list[float]] = []  # sum and count of position minus rank * gap
  for rank, i in enumerate(order):
    blocks.append([positions[i] - rank * gap, 1])
    while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
      total, count = blocks.pop()
      blocks[-1][0] += total
      blocks[-1][1] += count
  highest = 1 - (len(order) - 1) * gap
  bases = [max(0.0, min(total / count, highest)) for total, count in blocks for _ in range(count)]
  moved = [0.0] * len(order)
  for rank, i in enumerate(order):
    moved[i] = bases[rank] + rank * gap
  return moved
