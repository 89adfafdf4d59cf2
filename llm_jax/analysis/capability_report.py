"""A comparison over tasks as one page a person can read: `capability_report.write(folder)`."""

import itertools
import json
from pathlib import Path

from llm_jax.analysis import capability_method, capability_prose, report
from llm_jax.analysis.capabilities import Capabilities, by_seed, read
from llm_jax.analysis.capability_prose import metric_words, score
from llm_jax.analysis.report import DASH, shown
from llm_jax.analysis.results import FRACTIONS, Architecture, Results
from llm_jax.analysis.statistics import Summary
from llm_jax.analysis.words import METRICS, plain, plural, sentence, size

TEMPLATE = "capabilities.html.j2"
# Of a task's table: head, unit, what the entry calls it, how it is written.
_COSTS = (
  ("Width", "", "d_model", plain),
  ("Parameters", "", "parameters", lambda value: f"{value:,}"),
  ("Work", "kFLOP/token", "train_flops_per_token", lambda value: f"{value / 1e3:,.0f}"),
  ("State", "one sequence", "state_bytes", size),
  ("Memory", "in training", "memory_bytes", size),
)


def write(folder: Path) -> Path:
  """Writes report.html and figures/ beside capabilities.json; returns the path of the page."""
  return report.write_page(folder, TEMPLATE, _content(read(folder)))


def render(found: Capabilities) -> str:
  """The page, as HTML."""
  return report.page(TEMPLATE, **_content(found))


def _content(found: Capabilities) -> dict:
  """What the template takes."""
  # Imported here: whoever imports this file to train has no use for matplotlib.
  from llm_jax.analysis import capability_figures, figures, svg

  styles = svg.styles(list(found.architectures))
  keys = {name: f"key-{index}" for index, name in enumerate(styles)}
  grids = {
    name: figures.grids(study, styles, f"grid-{name}") for name, study in found.studies.items()
  }
  first = next(iter(found.studies.values()))
  return dict(
    title=_title(found),
    symbols=[svg.key(styles[name], keys[name]) for name in styles],
    finding=capability_prose.finding(found),
    question=capability_prose.question(found),
    limits=capability_prose.limits(found),
    method=capability_method.method(found),
    captions=capability_prose.captions(found),
    columns=_columns(found),
    rows=[_row(found, name, keys) for name in found.sorted],
    errors=_errors(found),
    lengths=capability_figures.lengths(found, styles),
    states=capability_figures.states(found, styles),
    speeds=figures.speeds(first, styles),
    aggregates=[_aggregate(found, name, keys) for name in found.table.aggregates],
    records=_records(found, keys),
    tasks=[_task(found, name, keys, grids[name]) for name in found.studies],
    grids=list(itertools.chain.from_iterable(grids.values())),
    command=found.about.get("command") or "not recorded",
    facts=_facts(found, first),
    config=json.dumps(found.about.get("config"), indent=2, default=str),
  )


def _title(found: Capabilities) -> str:
  return (
    f"{sentence(plural(len(found.architectures), 'architecture'))} on "
    f"{plural(len(found.studies), 'task')}"
  )


def _columns(found: Capabilities) -> list[dict]:
  """The heads of the capability table: a column a task, and the mean over those in shares."""
  columns = [
    {
      "title": sentence(found.titles[name]),
      "notes": [*metric_words(study.metric), *_least(study)],
    }
    for name, study in found.studies.items()
  ]
  tasks = len(found.table.tasks)
  if tasks > 1:
    columns.append({"title": "Mean", "notes": [f"over {plural(tasks, 'task')}"]})
  return columns


def _least(study: Results) -> list[str]:
  """What a score must beat to say anything."""
  guess = (study.comparison.get("guessing") or {}).get("")
  if guess is not None:
    return [f"guessing {score(guess, study.metric)}"]
  byte_model = (study.comparison.get("byte_model") or {}).get("2")
  return [f"order-2 byte model {byte_model:.3f}"] if byte_model else []


def _row(found: Capabilities, name: str, keys: dict[str, str]) -> dict:
  cells = [_cell(study, study.architectures.get(name)) for study in found.studies.values()]
  if len(found.table.tasks) > 1:
    overall = found.table.overall
    summary = overall.summaries.get(name)
    cells.append(
      _scored(summary, "", name in overall.best_group, "mean") if summary else {"notes": []}
    )
  return {"key": keys[name], "title": found.architectures[name], "cells": cells}


def _cell(study: Results, a: Architecture | None) -> dict:
  """One architecture on one task."""
  if a is None:
    return {"notes": []}
  summary = study.statistics.summaries.get(a.name)
  if summary is not None:
    return _scored(summary, study.metric, a.name in study.statistics.best_group)
  reached = [score(value, study.metric) for value in by_seed(a).values()]
  return {"status": a.status, "notes": [f"seeds: {', '.join(reached)}"] if reached else []}


def _scored(summary: Summary, metric: str, bold: bool, kind: str = "") -> dict:
  shares = metric in FRACTIONS or kind == "mean"
  write = lambda value: score(value, "accuracy" if shares else metric)
  notes = []
  if summary.interval:
    notes.append("\u2013".join(map(write, summary.interval)))
  if not kind and 0 < (summary.solved or 0) < len(summary.values):
    notes.append(f"{summary.solved} of {len(summary.values)} solve")
  share = f"{min(1.0, max(0.0, summary.mean)):.3f}" if shares else ""
  return {"score": write(summary.mean), "bold": bold, "notes": notes, "share": share, "kind": kind}


def _errors(found: Capabilities) -> list[str]:
  """What failed, and with which words."""
  return [
    f"{a.title} on {found.titles[name]}, {a.note}: {a.get('error')}"
    for name, study in found.studies.items()
    for a in study.unranked
    if a.get("error")
  ]


def _task(found: Capabilities, name: str, keys: dict[str, str], grids: list[str]) -> dict:
  """One task's section: the settings that were tried, sizes, costs and every pair."""
  study = found.studies[name]
  entries = list(study.architectures.values())
  costs = [cost for cost in _COSTS if any(a.get(cost[2]) is not None for a in entries)]
  tuned = any(a.grid for a in entries)
  metric = METRICS.get(study.metric, study.metric)
  heads = [("Architecture", ""), ("Score", metric)]
  if tuned:
    heads += [("Best trial", metric), ("Default\u2019s trial", metric)]
  heads += [("Learning rate", ""), ("Weight decay", "")]
  heads += [(head, unit) for head, unit, _, _ in costs] + [("Training", "tokens/s")]
  return {
    "name": name,
    "title": sentence(found.titles[name]),
    "metric": metric,
    "grids": grids,
    "heads": heads,
    "rows": [
      {
        "key": keys[a.name],
        "title": a.title,
        "cells": [
          _mean(study, a),
          *(_trials(study, a) if tuned else ()),
          *(shown(a.get(key), plain) for key in ("learning_rate", "weight_decay")),
          *(shown(a.get(key), show) for _, _, key, show in costs),
          shown(a.tokens_per_second, lambda value: f"{value:,.0f}"),
        ],
      }
      for a in entries
    ],
    "pairs": report.pairs(study),
  }


def _mean(study: Results, a: Architecture) -> str:
  summary = study.statistics.summaries.get(a.name)
  if summary is None:
    return a.status
  spread = "" if summary.spread is None else f" \u00b1 {summary.spread:.3f}"
  return f"{summary.mean:.3f}{spread}"


def _trials(study: Results, a: Architecture) -> tuple[str, str]:
  """The scores of the best short trial and of the default setting's."""
  reached = [value for _, value in a.trials if value is not None]
  best = max if study.comparison.get("higher_is_better", False) else min
  default = a.get("default") or {}
  failed = "failed" if default else DASH
  return (
    shown(best(reached, default=None), lambda value: f"{value:.3f}"),
    failed if default.get("score") is None else f"{default['score']:.3f}",
  )


def _aggregate(found: Capabilities, name: str, keys: dict[str, str]) -> dict:
  aggregate = found.table.aggregates[name]
  # No minus zero.
  write = lambda value: f"{round(value, 2) + 0.0:.2f}".replace("-", "\u2212")
  span = lambda e: "" if e.low is None else f" ({write(e.low)} to {write(e.high)})"
  estimates = (aggregate.mean, aggregate.middle, aggregate.rank, aggregate.behind)
  cells = [f"{write(e.value)}{span(e)}" for e in estimates]
  return {"key": keys[name], "title": found.architectures[name], "cells": cells}


def _records(found: Capabilities, keys: dict[str, str]) -> dict:
  """Architectures against each other: in how many tasks the row's is better and worse."""
  names = found.sorted
  if not any(pair.apart for s in found.studies.values() for pair in s.statistics.pairs):
    return {}
  rows = [
    {
      "key": keys[one],
      "title": found.architectures[one],
      "cells": [
        "" if one == other else " : ".join(map(plain, _record(found, one, other)))
        for other in names
      ],
    }
    for one in names
  ]
  return {"heads": [found.architectures[name] for name in names], "rows": rows}


def _record(found: Capabilities, one: str, other: str) -> tuple[int, int]:
  apart = [s.statistics for s in found.studies.values() if s.statistics.apart(one, other)]
  better = sum(list(c.summaries).index(one) < list(c.summaries).index(other) for c in apart)
  return better, len(apart) - better


def _facts(found: Capabilities, first: Results) -> list[tuple[str, list[tuple[str, str]]]]:
  built = {a.title: a.get("pattern") or DASH for a in first.architectures.values()}
  facts = report.facts(first.comparison, built)
  data = {
    found.titles[name]: f"data {study.comparison.get('text', DASH)}"
    for name, study in found.studies.items()
  }
  return [*facts, ("Hashes of the tasks' data", list(data.items()))]
