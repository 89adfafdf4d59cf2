"""A comparison folder as plain data: what `compare` left on disk, and `results.csv` from it.

Whatever is missing is None or empty, never an error: a report of a comparison that is still
running, or of which half failed, shows what there is.
"""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path

from llm_jax.analysis import statistics
from llm_jax.errors import UserError
from llm_jax.training import metrics
from llm_jax.training.workdir import write_text

AXES = ("step", "tokens", "flops", "seconds")
FRACTIONS = ("accuracy", "exact")  # metrics between 0 and 1
SPEEDS = (
  "prefill_tokens_per_second",
  "decode_tokens_per_second",
  "state_bytes",
  "state_bytes_analytic",
)


@dataclasses.dataclass(frozen=True)
class Run:
  """One seed of one architecture.

  Attributes:
    train: the training lines of its metrics.jsonl with a finite loss.
    score: the comparison's metric of the held-out data at the end; None if it never got there.
    kinds: of a task, the metric of each kind of held-out examples.
    last_step: the last step that was logged, 0 for none.
    tokens_per_second: median over the training lines.
  """

  train: tuple[dict, ...]
  score: float | None
  kinds: dict[str, float]
  last_step: int
  tokens_per_second: float | None


@dataclasses.dataclass(frozen=True)
class Architecture:
  """One architecture: its entry in comparison.json and what its folders hold.

  Attributes:
    entry: the entry itself.
    status: "finished" only if every seed reached the last step with a finite score.
    runs: by seed.
    grid: the trials, by weight decay: (learning rate, score or None where training failed), both
      ascending.
    speed: one dict a context length, ascending; keys "context" and `SPEEDS`.
    alone: training tokens a second measured with nothing beside it, or None.
    sample: the dict of samples/<name>.json, or None.
  """

  name: str
  title: str
  entry: dict
  status: str
  runs: dict[int, Run]
  grid: dict[float, tuple[tuple[float, float | None], ...]]
  speed: tuple[dict, ...]
  alone: float | None
  sample: dict | None

  @property
  def tokens_per_second(self) -> float | None:
    """Training speed: measured alone on the machine, else the median of its runs' lines."""
    return self.alone or _median(run.tokens_per_second for run in self.runs.values())

  @property
  def trials(self) -> list[tuple[float, float | None]]:
    """(learning rate, score) of the whole grid."""
    return [trial for row in self.grid.values() for trial in row]

  @property
  def note(self) -> str:
    """What became of it, in a few words; empty if it finished."""
    if self.status == "finished":
      return ""
    step = max((run.last_step for run in self.runs.values()), default=0)
    if not step:
      return f"{self.status} before its first step"
    return f"{self.status} {'after' if self.status == 'failed' else 'at'} step {step:,}"

  def get(self, key: str):
    """A figure of its entry, or None."""
    return self.entry.get(key)


@dataclasses.dataclass(frozen=True)
class Results:
  """A whole comparison.

  Attributes:
    folder: where it lies.
    comparison: comparison.json.
    architectures: by name, ranked ones by their mean first, then those that did not finish.
    seeds: the seeds every ranked architecture has.
    statistics: of the ranked ones.
    steps: how many steps a finished run has.
    tokens: how many training tokens a finished run has seen, or None.
  """

  folder: Path
  comparison: dict
  architectures: dict[str, Architecture]
  seeds: tuple[int, ...]
  statistics: statistics.Comparison
  steps: int
  tokens: int | None

  @property
  def metric(self) -> str:
    """What is compared."""
    return self.comparison.get("metric", "bits_per_byte")

  @property
  def ranked(self) -> list[Architecture]:
    """Those with a score from every seed, best mean first."""
    return [self.architectures[name] for name in self.statistics.summaries]

  @property
  def unranked(self) -> list[Architecture]:
    """Those that failed or have not finished."""
    return [a for a in self.architectures.values() if a.status != "finished"]


def gather(folder: str | Path) -> Results:
  """Reads a comparison folder.

  Raises:
    UserError: if there is no comparison.json in it, or it is no JSON object.
  """
  folder = Path(folder)
  comparison = _json(folder / "comparison.json")
  if not isinstance(comparison, dict) or "architectures" not in comparison:
    raise UserError(
      f"Expected the comparison.json of a comparison in {folder}, found none that can be read. "
      "Run `python launch.py compare --workdir=...` first, or name its work folder."
    )
  entries = comparison["architectures"]
  seeds = tuple(sorted({seed for entry in entries for seed in entry.get("seeds", ())}))
  steps = comparison.get("config", {}).get("steps") or 0
  found = [_architecture(folder, entry, seeds, comparison) for entry in entries]
  steps = steps or max((run.last_step for a in found for run in a.runs.values()), default=0)
  finished = [a for a in found if a.status == "finished"]
  tasks = comparison.get("config", {}).get("compare", {}).get("tasks") or ()
  compared = statistics.compare(
    {a.name: [a.runs[s].score for s in seeds] for a in finished},
    higher_is_better=comparison.get("higher_is_better", False),
    fractions=comparison.get("metric") in FRACTIONS,
    family=len(tasks) + 1 if tasks else 1,  # and what is said over all of them
  )
  order = list(compared.summaries)
  found.sort(key=lambda a: order.index(a.name) if a.name in order else len(order))
  tokens = [run.train[-1].get("tokens") for a in finished for run in a.runs.values() if run.train]
  return Results(
    folder=folder,
    comparison=comparison,
    architectures={a.name: a for a in found},
    seeds=seeds,
    statistics=compared,
    steps=steps,
    tokens=max((count for count in tokens if count), default=None),
  )


def write_csv(results: Results, path: Path) -> None:
  """One row an architecture, in the report's order; an empty cell is what was not measured."""
  contexts = sorted({row["context"] for a in results.architectures.values() for row in a.speed})
  rows = [_row(results, a, contexts) for a in results.architectures.values()]
  text = io.StringIO()
  writer = csv.DictWriter(text, list(rows[0]) if rows else ["architecture"], lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  write_text(path, text.getvalue())


def _row(results: Results, a: Architecture, contexts: list[int]) -> dict:
  summary = results.statistics.summaries.get(a.name)
  metric = results.metric
  row = {
    "architecture": a.name,
    "status": a.status,
    metric: summary and summary.mean,
    f"{metric}_spread": summary and summary.spread,
  }
  for seed in results.seeds:
    row[f"{metric}_seed_{seed}"] = a.runs[seed].score if seed in a.runs else None
  row |= {key: a.get(key) for key in ("learning_rate", "d_model", "parameters", "pattern")}
  row["tokens_per_second"] = a.tokens_per_second
  row |= {key: a.get(key) for key in ("train_flops_per_token", "memory_bytes")}
  for kind in SPEEDS:
    for context in contexts:
      row[f"{kind}_{context}"] = next(
        (speed.get(kind) for speed in a.speed if speed["context"] == context), None
      )
  return row | {"error": a.get("error")}


def _architecture(folder: Path, entry: dict, seeds, comparison: dict) -> Architecture:
  name = entry["name"]
  runs = {
    seed: _run(folder / "runs" / name / f"seed_{seed}", comparison)
    for seed in entry.get("seeds", ())
  }
  status = entry.get("status", "unfinished")
  complete = all(seed in runs and runs[seed].score is not None for seed in seeds)
  if status == "finished" and not (seeds and complete):
    status = "unfinished"
  measured = _json(folder / "speed" / f"{name}.json") or {}
  return Architecture(
    name=name,
    title=entry.get("title") or name,
    entry=entry,
    status=status,
    runs=runs,
    grid=_grid(entry.get("grid") or ()),
    speed=tuple(sorted(measured.get("contexts", ()), key=lambda row: row["context"])),
    alone=_finite(measured.get("train_tokens_per_second")),
    sample=_json(folder / "samples" / f"{name}.json"),
  )


def _grid(rows: Iterable[dict]) -> dict[float, tuple[tuple[float, float | None], ...]]:
  found = {}
  for row in sorted(rows, key=lambda row: (row["weight_decay"], row["learning_rate"])):
    trial = float(row["learning_rate"]), _finite(row["score"])
    found.setdefault(float(row["weight_decay"]), []).append(trial)
  return {decay: tuple(trials) for decay, trials in found.items()}


def _run(folder: Path, comparison: dict) -> Run:
  lines, metric = metrics.read(folder / "metrics.jsonl"), comparison.get("metric", "bits_per_byte")
  train = tuple(
    line for line in lines if line.get("split") == "train" and _finite(line.get("loss")) is not None
  )
  steps = comparison.get("config", {}).get("steps") or 0
  last = [line for line in lines if line.get("split") == "validation" and line["step"] >= steps]
  # A run may end before its steps; then its result says so.
  final = _json(folder / "result.json") or (last[-1] if last else {})
  names = comparison.get("kinds", ())
  kinds = {kind: final.get(f"{metric}/{kind}") for kind in names}
  if len(names) == 1:  # then there is nothing to tell apart
    kinds = {names[0]: final.get(metric)}
  return Run(
    train=train,
    score=_finite(final.get(metric)),
    kinds={kind: value for kind, value in kinds.items() if value is not None},
    last_step=max((line.get("step", 0) for line in lines), default=0),
    tokens_per_second=_median(line.get("tokens_per_second") for line in train),
  )


def _json(path: Path):
  """What a JSON file holds, None where there is none or it was cut short."""
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return None


def _finite(value) -> float | None:
  return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _median(values: Iterable[float | None]) -> float | None:
  values = sorted(value for value in values if value is not None)
  half = len(values) // 2
  if not values:
    return None
  return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2
