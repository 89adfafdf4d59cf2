"""Architectures by tasks: what a comparison over tasks found, as plain data and files.

Whatever is missing is None or empty, never an error: a comparison of which half failed shows what
there is.
"""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

from ml_collections import ConfigDict

from llm_jax.analysis import statistics
from llm_jax.analysis.results import FRACTIONS, Architecture, Results, gather
from llm_jax.training.workdir import write_json, write_text

FILE = "capabilities.json"
_NUMBER = re.compile(r"([a-z]+(?:_[a-z]+)*)_(\d+)")  # of a kind's name: pairs_8_length_64
SIZES = ("learning_rate", "weight_decay", "d_model", "parameters", "state_bytes")


@dataclasses.dataclass(frozen=True)
class Capabilities:
  """A whole comparison over tasks.

  Attributes:
    folder: where it lies.
    about: capabilities.json: the command, the config, and the tasks' names.
    studies: by the task's name, its `Results`: every architecture on that task.
    table: of the tasks whose scores are fractions.
  """

  folder: Path
  about: dict
  studies: dict[str, Results]
  table: statistics.Table

  @property
  def titles(self) -> dict[str, str]:
    """Of the tasks, by name."""
    return {name: study.comparison.get("task", name) for name, study in self.studies.items()}

  @property
  def architectures(self) -> dict[str, str]:
    """Titles by name, in the config's order."""
    names = self.about.get("config", {}).get("compare", {}).get("architectures", ())
    found = {
      a.name: a.title for study in self.studies.values() for a in study.architectures.values()
    }
    return {name: found[name] for name in dict.fromkeys([*names, *found]) if name in found}

  @property
  def sorted(self) -> list[str]:
    """Names of the architectures: those with a mean over the tasks first, the best at the top."""
    return list(dict.fromkeys([*self.table.overall.summaries, *self.architectures]))

  @property
  def seeds(self) -> tuple[int, ...]:
    """Those of any task."""
    return tuple(sorted({seed for study in self.studies.values() for seed in study.seeds}))


def write(folder: Path, config: ConfigDict, command: str) -> None:
  """Writes capabilities.json, results.csv and results.json of a comparison over tasks."""
  names = [name.replace(":", "_").replace("/", "_") for name in config.compare.tasks]
  about = {"version": 1, "command": command, "config": config.to_dict(), "tasks": names}
  write_json(folder / FILE, about)
  found = read(folder)
  write_csv(found, folder / "results.csv")
  write_results(found, folder / "results.json")


def read(folder: Path) -> Capabilities:
  """What a comparison over tasks left in its folder."""
  about = json.loads((folder / FILE).read_text(encoding="utf-8"))
  studies = {name: gather(folder / "tasks" / name) for name in about["tasks"]}
  shares = {name: _scores(s) for name, s in studies.items() if s.metric in FRACTIONS}
  table = statistics.table(shares, beside=len(studies) - len(shares))
  return Capabilities(folder, about, studies, table)


def _scores(study: Results) -> dict[str, list[float]]:
  """Of those that finished, by name: one score a seed."""
  return {
    a.name: [a.runs[seed].score for seed in study.seeds]
    for a in study.architectures.values()
    if a.status == "finished"
  }


def write_csv(found: Capabilities, path: Path) -> None:
  """One row an architecture, task and kind of held-out example ("" for all of them together)."""
  columns = ["architecture", "task", "kind", "metric", "status", "mean", "spread"]
  columns += [f"seed_{seed}" for seed in found.seeds] + list(SIZES)
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, lineterminator="\n")
  writer.writeheader()
  for name, study in found.studies.items():
    for a in study.architectures.values():
      for kind in ("", *study.comparison.get("kinds", ())):
        values = by_seed(a, kind)
        writer.writerow(
          {"architecture": a.name, "task": name, "kind": kind, "metric": study.metric}
          | {"status": a.status, **_spread(list(values.values()))}
          | {f"seed_{seed}": value for seed, value in values.items()}
          | {key: a.get(key) for key in SIZES}
        )
  write_text(path, text.getvalue())


def by_seed(a: Architecture, kind: str = "") -> dict[int, float]:
  """The scores there are, of one kind of held-out example or ("") of all of them."""
  values = {seed: run.kinds.get(kind) if kind else run.score for seed, run in a.runs.items()}
  return {seed: value for seed, value in values.items() if value is not None}


def numbered(kinds: tuple[str, ...]) -> tuple[str, dict[str, dict[str, int]]]:
  """Which number tells the kinds of held-out examples apart, and what it is for each.

  Returns:
    The number's name and, by the words of whatever else tells them apart ("" if nothing does),
    {kind: number}, ascending. No groups where kinds have no such numbers.
  """
  read = {kind: {key: int(value) for key, value in _NUMBER.findall(kind)} for kind in kinds}
  keys = next(iter(read.values()), {})
  if len(kinds) < 2 or not keys or any(numbers.keys() != keys.keys() for numbers in read.values()):
    return "", {}
  values = {key: {numbers[key] for numbers in read.values()} for key in keys}
  axis = max(keys, key=lambda key: len(values[key]))
  alone = len(values[axis]) == len(kinds)
  others = [] if alone else [key for key in keys if key != axis and len(values[key]) > 1]
  groups: dict[str, dict[str, int]] = {}
  for kind, numbers in sorted(read.items(), key=lambda item: item[1][axis]):
    words = ", ".join(f"{key.replace('_', ' ')} {numbers[key]}" for key in others)
    groups.setdefault(words, {})[kind] = numbers[axis]
  return axis.replace("_", " "), {words: row for words, row in groups.items() if len(row) > 1}


def _spread(values: list[float]) -> dict:
  if not values:
    return {"mean": None, "spread": None}
  mean = sum(values) / len(values)
  squares = sum((value - mean) ** 2 for value in values)
  spread = (squares / (len(values) - 1)) ** 0.5 if len(values) > 1 else None
  return {"mean": mean, "spread": spread}


def write_results(found: Capabilities, path: Path) -> None:
  """Everything that the report says in numbers, as JSON: means, intervals, groups, p values."""
  table = found.table
  overall = _judged(table.overall) | {
    "aggregates": {name: dataclasses.asdict(a) for name, a in table.aggregates.items()}
  }
  value = {
    "version": 1,
    "command": found.about.get("command"),
    "level": statistics.LEVEL,
    "coverage": statistics.COVERAGE,
    "resolution": statistics.RESOLUTION,
    "seeds": found.seeds,
    "architectures": found.architectures,
    "tasks": {name: _task(found, name) for name in found.studies},
    "over_all_tasks": overall,
  }
  write_json(path, value)


def _task(found: Capabilities, name: str) -> dict:
  study = found.studies[name]
  told = ("metric", "higher_is_better", "kinds", "guessing")
  return {
    "title": found.titles[name],
    **{key: study.comparison.get(key) for key in told},
    **_judged(study.statistics),
    "architectures": {a.name: _entry(study, a) for a in study.architectures.values()},
  }


def _judged(compared: statistics.Comparison) -> dict:
  """Groups, thresholds and pairs of one score."""
  return {
    "means": {name: summary.mean for name, summary in compared.summaries.items()},
    "intervals": {name: summary.interval for name, summary in compared.summaries.items()},
    "noise": compared.noise,
    "threshold": compared.threshold,
    "best_group": compared.best_group,
    "pairs": [dataclasses.asdict(pair) for pair in compared.pairs],
  }


def _entry(study: Results, a: Architecture) -> dict:
  summary = study.statistics.summaries.get(a.name)
  return {
    "status": a.status,
    "error": a.get("error"),
    **({} if summary is None else {"spread": summary.spread, "solved_by_seeds": summary.solved}),
    "by_seed": by_seed(a),
    "kinds": {kind: by_seed(a, kind) for kind in study.comparison.get("kinds", ())},
    **{key: a.get(key) for key in (*SIZES, "train_flops_per_token", "memory_bytes")},
    "tokens_per_second": a.tokens_per_second,
    "speed": a.speed,
    "grid": a.get("grid"),
    "default": a.get("default"),
  }
