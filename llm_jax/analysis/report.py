"""A comparison folder as one page a person can read: `report.write(folder)`."""

import json
from pathlib import Path

import jinja2

from llm_jax.analysis import prose
from llm_jax.analysis.results import Architecture, Results, gather, write_csv
from llm_jax.analysis.words import listed, plain, plural, sentence, size
from llm_jax.training.workdir import write_text

DASH = "\u2013"  # stands in a table for what was not measured
COLUMNS = (
  ("Architecture", ""),
  ("Validation", "bits per byte"),
  ("Behind the best", "bits per byte"),
  ("Parameters", ""),
  ("Learning rate", ""),
  ("Training", "tokens/s"),
  ("Work", "MFLOP/token"),
  ("Memory", "MB in training"),
  ("Decoding", "tokens/s"),
  ("State", "one sequence"),
)


def write(folder: str | Path) -> Path:
  """Writes results.csv, report.html and figures/ into a comparison's folder.

  Args:
    folder: holds comparison.json and, as far as the comparison got, runs/, speed/ and samples/.

  Returns:
    The path of report.html, one self-contained file.

  Raises:
    UserError: if the folder holds no comparison.
  """
  results = gather(folder)
  write_csv(results, results.folder / "results.csv")
  return write_page(results.folder, "report.html.j2", _content(results))


def render(results: Results) -> str:
  """The page, as HTML."""
  return page("report.html.j2", **_content(results))


def write_page(folder: Path, template: str, content: dict) -> Path:
  """Writes report.html, and each of its drawings as SVG and PDF into figures/.

  Args:
    content: what the template takes; drawings are values, or lists of them.
  """
  target = folder / "report.html"
  write_text(target, page(template, **content))
  (folder / "figures").mkdir(exist_ok=True)
  for value in content.values():
    for drawing in value if isinstance(value, list) else [value]:
      if hasattr(drawing, "figure"):
        drawing.write(folder / "figures")
  return target


def _content(results: Results) -> dict:
  """What the template takes."""
  # Imported here: whoever imports this file to train has no use for matplotlib.
  from llm_jax.analysis import figures, svg

  names = [entry["name"] for entry in results.comparison["architectures"]]
  styles = svg.styles(names)
  keys = {name: f"key-{index}" for index, name in enumerate(names)}
  drawn = {
    kind: getattr(figures, kind)(results, styles)
    for kind in ("curves", "grids", "speeds", "tradeoffs")
  }
  return dict(
    title=_title(results),
    symbols=[svg.key(styles[name], keys[name]) for name in names],
    finding=prose.finding(results),
    scores=figures.scores(results, styles),
    question=prose.question(results),
    limits=prose.limits(results),
    method=prose.method(results),
    captions=prose.captions(results),
    columns=_columns(results),
    rows=_rows(results, keys),
    pairs=pairs(results),
    speed_rows=_speed_rows(results),
    samples=_samples(results, keys),
    command=results.comparison.get("command") or "not recorded",
    facts=facts(results.comparison, _built(results.comparison)),
    config=json.dumps(results.comparison.get("config"), indent=2, default=str),
    **drawn,
  )


def page(template: str, **values) -> str:
  """A template of this folder, filled in."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=False,
  )
  return environment.get_template(template).render(**values)


def _title(results: Results) -> str:
  corpus = (results.comparison.get("corpus") or {}).get("name")
  title = f"{sentence(plural(len(results.architectures), 'architecture'))} compared"
  return f"{title} on {corpus}" if corpus else title


def _columns(results: Results) -> list[tuple[str, str]]:
  """The table's heads; the context of the last two is that of the longest measurement."""
  measured = [a.speed[-1]["context"] for a in results.architectures.values() if a.speed]
  longest = max(measured, default=0)
  at = f" at {plain(longest)}" if longest else ""
  return [(head, f"{unit}{at if head in ('Decoding', 'State') else ''}") for head, unit in COLUMNS]


def _rows(results: Results, keys: dict[str, str]) -> list[dict]:
  """The table, sorted by mean, those without a rank at the end."""
  rates = [a.get("learning_rate") for a in results.architectures.values()]
  digits = max((len(plain(rate).partition(".")[2]) for rate in rates if rate), default=0)
  bold = results.statistics.best_group
  rows = []
  for a in results.architectures.values():
    last = a.speed[-1] if a.speed else {}
    rate, flops, memory = (
      a.get(name) for name in ("learning_rate", "train_flops_per_token", "memory_bytes")
    )
    row = {
      "key": keys[a.name],
      "title": a.title,
      "note": a.note,
      "error": a.get("error") or "",
      "bold": a.name in bold,
      "cells": [
        shown(a.get("parameters"), plain),
        shown(rate, lambda value: f"{value:.{digits}f}"),
        shown(a.tokens_per_second, lambda value: f"{value:,.0f}"),
        shown(flops, lambda value: f"{value / 1e6:,.2f}"),
        shown(memory, lambda value: f"{value / 1e6:,.0f}"),
        shown(last.get("decode_tokens_per_second"), lambda value: f"{value:,.0f}"),
        shown(last.get("state_bytes"), size),
      ],
    }
    rows.append(row | _score_cells(results, a))
  return rows


def _score_cells(results: Results, a: Architecture) -> dict:
  summary = results.statistics.summaries.get(a.name)
  if summary is None:
    return {}
  best = results.ranked[0]
  spread = "" if summary.spread is None else f" \u00b1 {summary.spread:.3f}"
  behind = summary.mean - results.statistics.summaries[best.name].mean
  level = "" if results.statistics.apart(a.name, best.name) else "level, "
  return {
    "score": f"{summary.mean:.3f}{spread}",
    "behind": "lowest" if a is best else f"{level}{behind:.3f}",
  }


def shown(value, show) -> str:
  """A cell; a dash for what was not measured."""
  return DASH if value is None else show(value)


def pairs(results: Results) -> list[dict]:
  """The rows of the table of every pair."""
  title = lambda name: results.architectures[name].title
  return [
    {
      "lower": title(pair.lower),
      "higher": title(pair.higher),
      "difference": f"{pair.difference:.3f} \u00b1 {pair.half_width:.3f}",
      "p": "under 0.001" if pair.p_value < 0.001 else f"{pair.p_value:.3f}",
      "verdict": "told apart" if pair.apart else "undecided",
    }
    for pair in results.statistics.pairs
    if pair.p_value is not None
  ]


def _speed_rows(results: Results) -> list[dict]:
  whole = lambda value: f"{value:,.0f}"
  return [
    {
      "title": a.title,
      "cells": [
        shown(row.get(kind), whole)
        for kind in (
          "context",
          "prefill_tokens_per_second",
          "decode_tokens_per_second",
          "state_bytes",
          "state_bytes_analytic",
        )
      ],
    }
    for a in results.architectures.values()
    for row in a.speed
  ]


def _samples(results: Results, keys: dict[str, str]) -> list[dict]:
  samples = []
  for a in results.architectures.values():
    if a.sample and a.sample.get("text") is not None:
      prompt = a.sample.get("prompt") or ""
      text = a.sample["text"].removeprefix(prompt)
      samples.append({"key": keys[a.name], "title": a.title, "prompt": prompt, "text": text})
  return samples


def facts(comparison: dict, built: dict[str, str]) -> list[tuple[str, list[tuple[str, str]]]]:
  """Machine and versions, corpus and tokenizer, patterns: everything recorded, as written.

  Args:
    comparison: holds what `planning.of_data` says.
    built: how each architecture was built, by its title.
  """
  found = [
    ("Machine and versions", _flat(comparison.get("environment") or {})),
    ("Corpus", _flat(comparison.get("corpus") or {})),
    ("Tokenizer", _flat(comparison.get("tokenizer") or {})),
    ("Architectures as built", list(built.items())),
  ]
  return [(heading, facts) for heading, facts in found if facts]


def _built(comparison: dict) -> dict[str, str]:
  return {
    entry.get("title") or entry["name"]: f"width {entry.get('d_model')}, {entry.get('pattern')}"
    for entry in comparison["architectures"]
  }


def _flat(tree: dict, prefix: str = "") -> list[tuple[str, str]]:
  facts = []
  for name, value in tree.items():
    words = f"{prefix}{str(name).replace('_', ' ')}"
    if isinstance(value, dict):
      facts += _flat(value, f"{words} ")
    elif isinstance(value, list | tuple):
      facts.append((words, listed([str(item) for item in value])))
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 1e4:
      facts.append((words, f"{value:,}"))
    else:
      facts.append((words, str(value)))
  return facts
