"""The report's figures: each function turns results into panels, one <svg> string each.

A figure of several panels is several SVGs with equal axes, so that the page can lay them side by
side on a desk and below each other on a phone. Importing this file imports matplotlib: only
`report` does, when it renders.
"""

from collections import defaultdict
from collections.abc import Iterable

from matplotlib.axes import Axes

from llm_jax.analysis import panels, svg
from llm_jax.analysis.panels import Line
from llm_jax.analysis.results import AXES, FRACTIONS, Architecture, Results
from llm_jax.analysis.svg import FONT, INK, Style
from llm_jax.analysis.words import METRICS, plain, scaled, size

POINTS = 80  # of a curve; more cannot be seen at a panel's width
SCORE = "Validation, bits per byte"
DECODE, STATE = "decode_tokens_per_second", "state_bytes"


def scores(results: Results, styles: dict[str, Style]) -> str:
  """Validation bits per byte: every seed's dot, mean, spread, and the order-2 byte model."""
  rows = list(results.architectures.values())
  byte_model = results.comparison.get("byte_model", {}).get("2")
  longest = max((len(a.title) for a in rows), default=0)
  margins = {"left": 26 + 6 * longest, "right": 90, "bottom": 36, "top": 20}
  with svg.panel(390, 56 + 27 * len(rows), **margins) as axes:
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xlabel("validation bits per byte (lower is better)")
    axes.set_xlim(*_score_limits([v for a in rows for v in _seed_scores(a)], byte_model))
    _undecided_band(axes, results)
    _byte_line(axes, byte_model)
    for y, a in enumerate(rows):
      _score_row(axes, y, a, styles[a.name], results)
    means = results.statistics.summaries
    said = [f"{a.title} {means[a.name].mean:.3f}" for a in results.ranked]
    said += [f"{a.title} {a.note}" for a in results.unranked]
    label = "Validation bits per byte, lowest first: " + ", ".join(said) + "."
    if byte_model:
      label += f" The order-2 byte model stands at {byte_model:.2f}."
    return svg.render(axes, "scores", label)


def curves(results: Results, styles: dict[str, Style]) -> list[str]:
  """Training loss against steps, tokens, FLOPs and seconds: four panels, one loss axis."""
  traces = {a.name: _trace(a) for a in results.architectures.values()}
  limits = _loss_limits(traces.values())
  made = []
  for axis, of in (
    ("step", "steps"),
    ("tokens", "training tokens"),
    ("flops", "training FLOPs"),
    ("seconds", "seconds"),
  ):
    points = {name: [row for row in trace if row.get(axis)] for name, trace in traces.items()}
    points = {name: rows for name, rows in points.items() if rows}
    if not points:
      continue
    factor, unit = scaled(max(rows[-1][axis] for rows in points.values()), of)
    lines = []
    for name, rows in points.items():
      a = results.architectures[name]
      label = a.title if a.status == "finished" else f"{a.title} ({a.status})"
      columns = [[row[kind] for row in rows] for kind in ("loss", "low", "high")]
      lines.append(Line(styles[name], label, [row[axis] / factor for row in rows], *columns))
    made.append(
      panels.curves(f"curve-{axis}", "Training loss, nats per token", unit, lines, limits)
    )
  return made


def grids(results: Results, styles: dict[str, Style], name: str = "grid") -> list[str]:
  """The score against the learning rate in the short trials, one small panel each."""
  tried = [a for a in results.architectures.values() if a.grid]
  reached = [score for a in tried for _, score in a.trials if score is not None]
  if not reached:
    return []
  higher = results.comparison.get("higher_is_better", False)
  # A trial that diverged would flatten all the others: half as much again as the best is enough.
  low, high = min(reached), max(reached) if higher else min(max(reached), 1.5 * min(reached))
  margin = 0.1 * ((high - low) or 0.1)
  limits = low - (1 + higher) * margin, high + (2 - higher) * margin
  if results.metric in FRACTIONS:
    limits = -0.08, 1.08
  training = "training " if "corpus" in results.comparison else ""
  return [
    panels.responses(
      name=f"{name}-{a.name}",
      title=a.title,
      score=f"{training}{METRICS.get(results.metric, results.metric)}",
      own={plain(decay): trials for decay, trials in a.grid.items()},
      others=[_best_trials(other, higher) for other in tried if other is not a],
      style=styles[a.name],
      chosen=_chosen(a),
      limits=limits,
      rates=sorted({rate for other in tried for rate, _ in other.trials}),
      worst=limits[0 if higher else 1],
    )
    for a in tried
  ]


def _chosen(a: Architecture) -> tuple[float, str] | None:
  """The setting of the full runs, its weight decay as the panel names it."""
  rate = a.get("learning_rate")
  if rate is None:
    return None
  decay = a.get("weight_decay")
  return rate, plain(next(iter(a.grid)) if decay is None else decay)


def _best_trials(a: Architecture, higher: bool) -> list[tuple[float, float | None]]:
  """The best score at each learning rate."""
  best = max if higher else min
  rates = sorted({rate for rate, _ in a.trials})
  reached = lambda rate: [s for r, s in a.trials if r == rate and s is not None]
  return [(rate, best(reached(rate), default=None)) for rate in rates]


def speeds(results: Results, styles: dict[str, Style]) -> list[str]:
  """Prefill, decoding and state bytes against the context length."""
  made = []
  for kind, title, show in (
    ("prefill_tokens_per_second", "Prefill, tokens per second", plain),
    (DECODE, "Decoding, tokens per second", plain),
    (STATE, "State of one sequence", size),
  ):
    lines = []
    for a in results.architectures.values():
      points, theory = (
        [(row["context"], row[k]) for row in a.speed if row.get(k)]
        for k in (kind, f"{kind}_analytic")
      )
      if points:
        lines.append(Line(styles[a.name], a.title, *zip(*points, strict=True), theory=theory))
    if lines:
      made.append(panels.logarithmic(f"speed-{kind}", title, "tokens of context", lines, show))
  return made


def tradeoffs(results: Results, styles: dict[str, Style]) -> list[str]:
  """Bits per byte against what it costs: training speed, decoding speed and state bytes."""
  last = {a.name: a.speed[-1] if a.speed else {} for a in results.ranked}
  contexts = {row["context"] for row in last.values() if row}
  costs = [
    ("training", "training tokens per second", lambda a: a.tokens_per_second, plain),
  ]
  if len(contexts) == 1:
    at = f"at {plain(*contexts)} tokens"
    costs += [
      ("decode", f"decoded tokens per second {at}", lambda a: last[a.name].get(DECODE), plain),
      ("state", f"state of one sequence {at}", lambda a: last[a.name].get(STATE), size),
    ]
  made = []
  for name, title, cost, show in costs:
    lines = []
    for a in results.ranked:
      summary = results.statistics.summaries[a.name]
      if cost(a):
        spread = summary.spread or 0.0
        ends = [summary.mean - spread], [summary.mean + spread]
        lines.append(Line(styles[a.name], a.title, [cost(a)], [summary.mean], *ends))
    if len(lines) > 1:
      made.append(panels.scatter(f"cost-{name}", SCORE, title, lines, show))
  return made


def _trace(a: Architecture) -> list[dict]:
  """Mean training loss over the seeds, and their lowest and highest, in at most POINTS bins."""
  rows: dict[int, list[tuple[int, dict]]] = defaultdict(list)
  for seed, run in a.runs.items():
    for line in run.train:
      rows[line["step"]].append((seed, line))
  steps = sorted(rows)
  bins = max(1, -(-len(steps) // POINTS))
  trace = []
  for start in range(0, len(steps), bins):
    chosen = [pair for step in steps[start : start + bins] for pair in rows[step]]
    of_seed = defaultdict(list)
    for seed, line in chosen:
      of_seed[seed].append(line["loss"])
    losses = [_mean(values) for values in of_seed.values()]
    row = {key: _mean(line.get(key) for _, line in chosen) for key in AXES}
    trace.append(row | {"loss": _mean(losses), "low": min(losses), "high": max(losses)})
  return trace


def _mean(values: Iterable[float | None]) -> float | None:
  values = [value for value in values if value is not None]
  return sum(values) / len(values) if values else None


def _loss_limits(traces: Iterable[list[dict]]) -> tuple[float, float]:
  """From just below the lowest loss to the highest after the first eighth of the steps."""
  traces = [trace for trace in traces if trace]
  if not traces:
    return 0.0, 1.0
  last = max(trace[-1]["step"] for trace in traces)
  late = [row for trace in traces for row in trace if row["step"] > last / 8]
  low, high = (pick(row["loss"] for row in late) for pick in (min, max))
  margin = 0.04 * (high - low) or 0.1
  return low - margin, high + margin


def _score_limits(values: list[float], byte_model: float | None) -> tuple[float, float]:
  low, high = (min(values), max(values)) if values else (1.0, 2.0)
  width = max(high - low, 0.02)
  # The byte model's line is drawn to scale unless that would squeeze the architectures into less
  # than a third of the axis; then it becomes an arrow at the border.
  if byte_model and low - 2 * width < byte_model < high + 2 * width:
    low, high = min(low, byte_model), max(high, byte_model)
    width = high - low
  return low - 0.06 * width, high + 0.06 * width


def _seed_scores(a: Architecture) -> list[float]:
  return [run.score for run in a.runs.values() if run.score is not None]


def _undecided_band(axes: Axes, results: Results) -> None:
  """A grey band: whose mean lies in it cannot be told apart from the best."""
  compared = results.statistics
  if compared.threshold is None:
    return
  best = results.ranked[0]
  low = compared.summaries[best.name].mean
  axes.axvspan(low, low + compared.threshold, color=INK, alpha=0.1, linewidth=0)
  at = {"transform": axes.get_xaxis_transform(), "va": "bottom", "fontsize": FONT - 1.5}
  axes.text(low, 1.005, "level with the best", **at)


def _byte_line(axes: Axes, bits: float | None) -> None:
  """The order-2 byte model: a dashed line, or an arrow at the border it lies beyond."""
  if not bits:
    return
  low, high = axes.get_xlim()
  at = {"transform": axes.get_xaxis_transform(), "va": "bottom", "fontsize": FONT - 1.5}
  if low < bits < high:
    axes.axvline(bits, color=INK, linestyle=(0, (3, 2)), linewidth=1.2)
    axes.text(bits, 1.005, f"order-2 byte model {bits:.2f}", ha="center", **at)
  elif bits >= high:
    axes.text(high, 1.005, f"order-2 byte model {bits:.2f} \u2192", ha="right", **at)
  else:
    axes.text(low, 1.005, f"\u2190 order-2 byte model {bits:.2f}", ha="left", **at)


def _score_row(axes: Axes, y: int, a: Architecture, style: Style, results: Results) -> None:
  """Name, dots, mean, spread and value of one architecture; hollow dots if it is not ranked."""
  summary = results.statistics.summaries.get(a.name)
  margin = axes.get_yaxis_transform()
  fixed = {"transform": margin, "va": "center"}
  width = axes.figure.bbox.width * axes.get_position().width
  axes.plot([-10 / width], [y], style.marker, color=style.colour, transform=margin, clip_on=False)
  axes.text(-19 / width, y, a.title, ha="right", **fixed)
  values, dots = _seed_scores(a), {"color": style.colour}
  if summary is None:
    dots |= {"markerfacecolor": "none", "markeredgewidth": 1}
    axes.text(1 + 10 / width, y, a.status, fontstyle="italic", **fixed)
  else:
    spread = summary.spread or 0.0
    ends = [summary.mean - spread, summary.mean + spread]
    axes.plot(ends, [y, y], color=style.colour, linewidth=6, alpha=0.3, solid_capstyle="butt")
    axes.plot([summary.mean] * 2, [y - 0.3, y + 0.3], color=style.colour, linewidth=1.6)
    text = f"{summary.mean:.3f}" + (f" \u00b1 {spread:.3f}" if summary.spread is not None else "")
    axes.text(1 + 10 / width, y, text, **fixed)
  axes.plot(values, [y] * len(values), style.marker, markersize=6, **dots)
