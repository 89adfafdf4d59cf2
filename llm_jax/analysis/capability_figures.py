"""The figures of a comparison over tasks: scores by length, and scores by state.

Importing this file imports matplotlib: only `capability_report` does, when it renders.
"""

from llm_jax.analysis import panels
from llm_jax.analysis.capabilities import Capabilities, by_seed, numbered
from llm_jax.analysis.capability_prose import metric_words
from llm_jax.analysis.panels import Line
from llm_jax.analysis.results import FRACTIONS, Results
from llm_jax.analysis.svg import Style
from llm_jax.analysis.words import sentence, size

_SHARE = -0.05, 1.05  # limits of an axis of shares


def lengths(found: Capabilities, styles: dict[str, Style]) -> list[str]:
  """The score by the length, or another number, of held-out examples: one panel a task."""
  made = []
  for name, study in found.studies.items():
    axis, groups = numbered(tuple(study.comparison.get("kinds") or ()))
    for words, kinds in groups.items():
      lines = [
        line for a in study.architectures.values() if (line := _by_length(a, kinds, styles[a.name]))
      ]
      if not lines:
        continue
      guesses = study.comparison.get("guessing") or {}
      made.append(
        panels.lengths(
          name=f"lengths-{name}{f'-{words}' if words else ''}".replace(" ", "-"),
          title=f"{_title(found, name)}{f', {words}' if words else ''}",
          x_label=axis,
          lines=lines,
          limits=_limits(study, lines),
          trained=_trained(study, axis),
          guessing=[(x, guesses[kind]) for kind, x in kinds.items() if kind in guesses],
        )
      )
  return made


def states(found: Capabilities, styles: dict[str, Style]) -> list[str]:
  """The score against the bytes of state: one panel a task."""
  made = []
  for name, study in found.studies.items():
    lines = []
    for a in study.ranked:
      summary = study.statistics.summaries[a.name]
      low, high = summary.interval or (summary.mean, summary.mean)
      if a.get("state_bytes"):
        lines.append(
          Line(styles[a.name], a.title, [a.get("state_bytes")], [summary.mean], [low], [high])
        )
    if len(lines) > 1:
      title = ", ".join([_title(found, name), *metric_words(study.metric)])
      wide = (2, _SHARE) if study.metric in FRACTIONS else (3, None)
      made.append(
        panels.scatter(f"state-{name}", title, "state of one sequence", lines, size, *wide)
      )
  return made


def _title(found: Capabilities, task: str) -> str:
  return sentence(found.titles[task])


def _by_length(a, kinds: dict[str, int], style: Style) -> Line | None:
  rows = [(x, list(by_seed(a, kind).values())) for kind, x in kinds.items()]
  rows = [(x, values) for x, values in rows if values]
  if not rows:
    return None
  label = a.title if a.status == "finished" else f"{a.title} ({a.status})"
  return Line(
    style,
    label,
    x=[x for x, _ in rows],
    y=[sum(values) / len(values) for _, values in rows],
    low=[min(values) for _, values in rows],
    high=[max(values) for _, values in rows],
  )


def _limits(study: Results, lines: list[Line]) -> tuple[float, float]:
  if study.metric in FRACTIONS:
    return _SHARE
  low, high = min(y for line in lines for y in line.low), max(y for x in lines for y in x.high)
  margin = 0.06 * (high - low) or 0.1
  return low - margin, high + margin


def _trained(study: Results, axis: str) -> float | None:
  """The greatest of this number in training, where the task's options say it."""
  options = (study.comparison["config"].get("objective_options") or {}).get("task") or {}
  names = (axis, "longest", "seq_len") if axis not in options else (axis,)
  return next((options[name] for name in names if isinstance(options.get(name), int)), None)
