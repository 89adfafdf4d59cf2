"""Architectures by tasks: what a comparison over tasks found, as plain data and results.csv.

Whatever is missing is None or empty, never an error: a comparison of which half failed shows what
there is.
"""

import csv
import dataclasses
import io
import json
from pathlib import Path

from ml_collections import ConfigDict

from llm_jax.analysis.results import Results, gather
from llm_jax.training.workdir import write_json, write_text

FILE = "capabilities.json"


@dataclasses.dataclass(frozen=True)
class Capabilities:
  """A whole comparison over tasks.

  Attributes:
    folder: where it lies.
    about: capabilities.json: the command, the config, and of each task its name and title.
    studies: by the task's name, its `Results`: every architecture on that task.
  """

  folder: Path
  about: dict
  studies: dict[str, Results]

  @property
  def titles(self) -> dict[str, str]:
    """Of the tasks, by name."""
    return {name: study.comparison.get("task", name) for name, study in self.studies.items()}

  @property
  def architectures(self) -> dict[str, str]:
    """Titles by name, in the config's order."""
    found = {}
    for study in self.studies.values():
      for entry in study.comparison["architectures"]:
        found.setdefault(entry["name"], entry["title"])
    return found


def write(folder: Path, config: ConfigDict, command: str) -> None:
  """Writes capabilities.json, results.csv and report.html of a finished comparison over tasks."""
  names = [name.replace(":", "_").replace("/", "_") for name in config.compare.tasks]
  about = {"version": 1, "command": command, "config": config.to_dict(), "tasks": names}
  write_json(folder / FILE, about)
  found = read(folder)
  write_csv(found, folder / "results.csv")


def read(folder: Path) -> Capabilities:
  """What a comparison over tasks left in its folder."""
  about = json.loads((folder / FILE).read_text(encoding="utf-8"))
  studies = {name: gather(folder / "tasks" / name) for name in about["tasks"]}
  return Capabilities(folder, about, studies)


def write_csv(found: Capabilities, path: Path) -> None:
  """One row an architecture, task and kind of held-out example ("" for all of them together)."""
  columns = ["architecture", "task", "kind", "metric", "status", "mean", "spread"]
  seeds = sorted({seed for study in found.studies.values() for seed in study.seeds})
  sizes = ["learning_rate", "weight_decay", "d_model", "parameters", "state_bytes"]
  columns += [f"seed_{seed}" for seed in seeds] + sizes
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
  writer.writeheader()
  for name, study in found.studies.items():
    for a in study.architectures.values():
      for kind in ("", *study.comparison.get("kinds", ())):
        values = {seed: run.kinds.get(kind) if kind else run.score for seed, run in a.runs.items()}
        writer.writerow(
          {"architecture": a.name, "task": name, "kind": kind, "metric": study.metric}
          | {"status": a.status, **_spread(values.values())}
          | {f"seed_{seed}": value for seed, value in values.items()}
          | {key: a.get(key) for key in sizes}
        )
  write_text(path, text.getvalue())


def _spread(values) -> dict:
  values = [value for value in values if value is not None]
  if not values:
    return {"mean": None, "spread": None}
  mean = sum(values) / len(values)
  squares = sum((value - mean) ** 2 for value in values)
  spread = (squares / (len(values) - 1)) ** 0.5 if len(values) > 1 else None
  return {"mean": mean, "spread": spread}
