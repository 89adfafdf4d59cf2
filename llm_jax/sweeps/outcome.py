"""What came of a sweep: results.csv, response.svg and result.json, and the words at its end."""

import csv
import io
import shlex
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from llm_jax.sweeps import surface
from llm_jax.sweeps.study import values_of
from llm_jax.sweeps.sweep import Sweep
from llm_jax.training import early_stopping, workdir

STATES = {
  TrialState.COMPLETE: "complete",
  TrialState.PRUNED: "pruned",
  TrialState.FAIL: "failed",
  TrialState.RUNNING: "running",
  TrialState.WAITING: "waiting",
}
_USED = ("step", "tokens", "seconds", "parameters")  # of a run's result.json


def read(folder: Path) -> dict | None:
  """The result.json of a finished sweep."""
  path = folder / "result.json"
  return workdir.read_json(path) if path.exists() else None


def write(sweep: Sweep) -> dict:
  """Writes the three files of a sweep whose trials are all over.

  Returns:
    result.json: trials, complete, pruned, failed, metric, best (trial, value, values), errors.
  """
  trials = sweep.study.trials()
  metric = sweep.study.plan.metric
  workdir.write_text(sweep.folder / "results.csv", _table(sweep, trials))
  seen = [surface.Seen(values_of(t), score(t), STATES[t.state]) for t in trials]
  lower = early_stopping.lower_is_better(metric)
  picture = surface.draw(sweep.folder.resolve().name, metric, lower, seen)
  if picture:
    workdir.write_text(sweep.folder / "response.svg", picture)
  count = lambda state: sum(trial.state == state for trial in trials)
  chosen = best(trials, lower)
  result = {
    "trials": len(trials),
    "complete": count(TrialState.COMPLETE),
    "pruned": count(TrialState.PRUNED),
    "failed": count(TrialState.FAIL),
    "metric": metric,
    "best": chosen and {"trial": chosen.number, "value": chosen.value, "values": values_of(chosen)},
    "errors": {t.number: t.user_attrs["errors"][-1] for t in trials if t.state == TrialState.FAIL},
  }
  workdir.write_json(sweep.folder / "result.json", result)
  return workdir.read_json(sweep.folder / "result.json")


def score(trial: FrozenTrial) -> float | None:
  """What a trial reached: at its end, or at its last evaluation so far."""
  if trial.state == TrialState.COMPLETE:
    return trial.value
  values = trial.intermediate_values
  last = values[max(values)] if values else None
  return last if last is not None and last - last == 0 else None


def best(trials: list[FrozenTrial], lower: bool) -> FrozenTrial | None:
  """The best of those that were trained to their end; of equal ones the first."""
  whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
  return min(whole, key=lambda t: t.value if lower else -t.value, default=None)


def told(result: dict, folder: Path, flags: list[str]) -> str:
  """What the terminal says at the end.

  Args:
    flags: those of the config of all trials.
  """
  states = (f"{result[state]} {state}" for state in ("complete", "pruned", "failed"))
  lines = [f"{result['trials']} trials: " + ", ".join(s for s in states if s[0] != "0")]
  for number, error in result["errors"].items():
    lines.append(f"trial {number} failed: {error.splitlines()[0]}")
  if found := result["best"]:
    setting = ", ".join(f"{key}={value}" for key, value in found["values"].items())
    lines.append(
      f"best: trial {found['trial']}, {result['metric']} {found['value']:.5g}, with {setting}"
    )
    own = [f"--config.{key}={_text(value)}" for key, value in found["values"].items()]
    lines.append("  " + shlex.join(["python", "launch.py", "train", *flags, *own]))
    lines.append(f"  its run: {folder / 'trials' / str(found['trial'])}")
  names = ("results.csv", "response.svg")
  return "\n".join(lines + [str(folder / name) for name in names if (folder / name).exists()])


def _text(value) -> str:
  return str(tuple(value)) if isinstance(value, list) else str(value)


def _table(sweep: Sweep, trials: list[FrozenTrial]) -> str:
  """results.csv: a row a trial."""
  keys, metric = sweep.study.plan.space.keys, sweep.study.plan.metric
  text = io.StringIO()
  rows = csv.writer(text, lineterminator="\n")
  rows.writerow(["trial", "state", metric, *keys, *(u for u in _USED if u != metric), "error"])
  for trial in trials:
    file, values = sweep.run_folder(trial.number) / "result.json", values_of(trial)
    used = workdir.read_json(file) if file.exists() else {}
    errors = " ".join(trial.user_attrs.get("errors", [""])[-1].split())
    rows.writerow(
      [trial.number, STATES[trial.state], score(trial)]
      + [values.get(key, "") for key in keys]
      + [used.get(name, "") for name in _USED if name != metric]
      + [errors]
    )
  return text.getvalue()
