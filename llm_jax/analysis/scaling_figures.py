"""The figures of a scaling study: the best a budget buys, loss by size, and isoFLOP curves.

Importing this file imports matplotlib: only `scaling_report` does, when it renders.
"""

import dataclasses

import numpy as np

from llm_jax.analysis import panels, scaling
from llm_jax.analysis.panels import Line
from llm_jax.analysis.scaling_results import Architecture, Study
from llm_jax.analysis.svg import MARKERS, Style
from llm_jax.analysis.words import large, scaled

BITS = "Bits per byte of held-out text"
_POINTS = 60  # of a line


def frontier(study: Study, styles: dict[str, Style]) -> list[str]:
  """The lowest loss each law promises for a budget, its band, and the runs themselves."""
  if not study.fitted:
    return []
  horizon = study.plan["config"]["scaling"]["horizon"]
  factor, unit = scaled(study.budgets[1], "training FLOPs")
  lines = []
  for a in study.fitted:
    budgets_P = np.geomspace(study.budgets[0], horizon * study.budgets[1], _POINTS)
    best, again = a.fit.optimum(budgets_P)
    low_P, high_P = scaling.interval(again.loss)
    crossed = [
      (c.budget, float(a.fit.optimum(c.budget)[0].loss), c.low, c.high)
      for c in study.crossovers
      if c.budget and c.later == a.name
    ]
    runs = [(run.flops, run.bits) for run in a.finished]
    bands = {"low": low_P, "high": high_P, "measured": runs, "marks": crossed}
    lines.append(Line(styles[a.name], a.title, budgets_P, best.loss, **bands))
  lines = _divided(lines, factor)
  limits = _limits(lines)
  return [panels.fits("frontier", BITS, unit, lines, limits, study.budgets[1] / factor)]


def sizes(study: Study, styles: dict[str, Style]) -> list[str]:
  """Loss against N, a line for each length of training: one panel an architecture."""
  drawn = {a.name: _by_size(a, styles[a.name]) for a in study.fitted}
  return _panels("size", "by training tokens", drawn, study)


def isoflops(study: Study, styles: dict[str, Style]) -> list[str]:
  """Loss against N, a parabola for each budget: one panel an architecture."""
  drawn = {
    a.name: _by_budget(a, styles[a.name]) for a in study.architectures.values() if a.parabolas
  }
  return _panels("isoflop", "by training FLOPs", drawn, study)


def _by_size(a: Architecture, style: Style) -> list[Line]:
  counts = [run.parameters for run in a.finished]
  size_P = np.geomspace(min(counts), max(counts), _POINTS)
  lines = []
  for number, tokens in enumerate(sorted({run.tokens for run in a.finished})):
    low_P, high_P = scaling.interval(a.fit.resampled.loss(size_P, tokens))
    runs = [(run.parameters, run.bits) for run in a.finished if run.tokens == tokens]
    look = Style(style.colour, MARKERS[number % len(MARKERS)], style.dash)
    loss_P = a.fit.law.loss(size_P, tokens)
    lines.append(Line(look, large(tokens), size_P, loss_P, low_P, high_P, measured=runs))
  return lines


def _by_budget(a: Architecture, style: Style) -> list[Line]:
  lines = []
  for number, curve in enumerate(a.parabolas):
    look = Style(style.colour, MARKERS[number % len(MARKERS)], style.dash)
    size_P = np.geomspace(curve.parameters_P[0], curve.parameters_P[-1], _POINTS)
    marks = []
    if curve.minimum:
      marks.append((curve.minimum, float(curve.loss(curve.minimum)), curve.low, curve.high))
    dots = list(zip(curve.parameters_P, curve.loss_P, strict=True))
    label = large(curve.budget)
    lines.append(Line(look, label, size_P, curve.loss(size_P), measured=dots, marks=marks))
  return lines


def _panels(name: str, by: str, drawn: dict[str, list[Line]], study: Study) -> list[str]:
  """One panel an architecture, all with the same axes; `by` says what the lines' labels are."""
  if not drawn:
    return []
  everything = [line for lines in drawn.values() for line in lines]
  limits = _limits(everything)
  factor, unit = scaled(max(max(line.x) for line in everything), "parameters")
  made = []
  for number, (key, lines) in enumerate(drawn.items()):
    title = f"{study.architectures[key].title}, {by}"
    made.append(panels.fits(f"{name}-{number}", title, unit, _divided(lines, factor), limits))
  return made


def _divided(lines: list[Line], factor: float) -> list[Line]:
  """The lines over x / factor."""
  over = lambda value: None if value is None else value / factor
  return [
    dataclasses.replace(
      line,
      x=np.asarray(line.x) / factor,
      measured=[(x / factor, y) for x, y in line.measured],
      marks=[(x / factor, y, over(low), over(high)) for x, y, low, high in line.marks],
    )
    for line in lines
  ]


def _limits(lines: list[Line]) -> tuple[float, float]:
  """Of the y axis: every line and dot; bands may reach beyond."""
  values = [y for line in lines for y in (*line.y, *(y for _, y in line.measured))]
  margin = 0.06 * (max(values) - min(values)) or 0.1
  return min(values) - margin, max(values) + margin
