"""A scaling study as one page a person can read: `scaling_report.write(study, folder)`."""

import json
from pathlib import Path

from llm_jax.analysis import report, scaling, scaling_prose
from llm_jax.analysis.report import DASH
from llm_jax.analysis.scaling_results import Architecture, Study
from llm_jax.analysis.words import large, percent, plain, plural, sentence

TEMPLATE = "scaling.html.j2"


def write(study: Study, folder: Path) -> Path:
  """Writes report.html and figures/; returns the path of the page."""
  return report.write_page(folder, TEMPLATE, _content(study))


def render(study: Study) -> str:
  """The page, as HTML."""
  return report.page(TEMPLATE, **_content(study))


def _content(study: Study) -> dict:
  """What the template takes."""
  # Imported here: whoever imports this file to train has no use for matplotlib.
  from llm_jax.analysis import scaling_figures, svg

  styles = svg.styles(list(study.architectures))
  keys = {name: f"key-{index}" for index, name in enumerate(study.architectures)}
  return dict(
    title=_title(study),
    symbols=[svg.key(styles[name], keys[name]) for name in styles],
    finding=scaling_prose.finding(study),
    question=scaling_prose.question(study),
    limits=scaling_prose.limits(study),
    method=scaling_prose.method(study),
    captions=scaling_prose.CAPTIONS,
    frontier=scaling_figures.frontier(study, styles),
    sizes=scaling_figures.sizes(study, styles),
    isoflops=scaling_figures.isoflops(study, styles),
    level=f"{100 * scaling.LEVEL:.0f} %",
    budget=large(study.budgets[1]) if study.budgets else "",
    laws=[_law(a, keys) for a in study.fitted],
    optima=[_optimum(study, a, keys) for a in study.fitted],
    crossovers=[_crossover(study, c) for c in study.crossovers],
    runs=[_run(a, run, keys) for a in study.architectures.values() for run in a.runs],
    errors=sorted({run.error for a in study.architectures.values() for run in a.runs} - {""}),
    command=study.plan["command"],
    facts=report.facts(study.plan, _built(study)),
    config=json.dumps(study.plan["config"], indent=2, default=str),
  )


def _title(study: Study) -> str:
  number = sentence(plural(len(study.architectures), "architecture"))
  return f"{number} scaled on {study.plan['corpus']['name']}"


def _built(study: Study) -> dict[str, str]:
  first = {model["architecture"]: model for model in reversed(study.plan["models"])}
  return {model["title"]: model["pattern"] for model in reversed(first.values())}


def _law(a: Architecture, keys) -> dict:
  cells = [_span(getattr(a.fit.law, name), a.fit.interval(name)) for name in scaling.NAMES]
  count = f"{len(a.finished)} of {len(a.runs)}"
  return {
    "key": keys[a.name],
    "title": a.title,
    "cells": [*cells, f"{100 * a.fit.noise:.2f} %", count],
  }


def _optimum(study: Study, a: Architecture, keys) -> dict:
  budget = study.budgets[1]
  best, again = a.fit.optimum([budget])
  spread = lambda key: (
    float(getattr(best, key)[0]),
    scaling.interval(getattr(again, key)[:, 0]),
  )
  cells = [_span(*spread(key)) for key in ("loss", "parameters", "tokens")]
  for value, low, high in a.fit.exponents(budget).values():
    cells.append(_span(value, (low, high)))
  cells.append(DASH if a.growth is None else f"{a.growth.exponent:.2f}")
  sizes = [run.parameters for run in a.finished]
  inside = min(sizes) <= best.parameters[0] <= max(sizes)
  cells.append("yes" if inside else "no")
  return {"key": keys[a.name], "title": a.title, "cells": cells}


def _crossover(study: Study, c) -> dict:
  title = lambda name: study.architectures[name].title
  return {
    "title": f"{title(c.names[0])}, {title(c.names[1])}",
    "cells": [
      title(c.earlier),
      title(c.later),
      "outside" if c.budget is None else large(c.budget),
      DASH if c.budget is None else scaling_prose.span(c),
      percent(c.probability),
      percent(c.better),
    ],
  }


def _run(a: Architecture, run, keys) -> dict:
  cells = [
    f"{run.parameters:,}",
    f"{run.d_model:,}",
    f"{run.tokens:,}",
    large(run.flops),
    plain(run.seed),
    DASH if run.learning_rate is None else plain(run.learning_rate),
    run.status if run.bits is None else f"{run.bits:.3f}",
    DASH if run.bits is None or not a.fit else f"{a.fit.law.loss(run.parameters, run.tokens):.3f}",
  ]
  return {"key": keys[a.name], "title": a.title, "cells": cells}


def _span(value: float, ends: tuple[float, float]) -> str:
  """1.69 (1.60 to 1.80)."""
  return f"{_short(value)} ({_short(ends[0])} to {_short(ends[1])})"


def _short(value: float) -> str:
  """Three digits, however large."""
  if value >= 1e21 or 0 < value < 1e-4:
    return f"{value:.1e}"
  return large(value) if value >= 1e6 else plain(float(f"{value:.3g}"))
