"""A comparison: plan it, train every architecture in processes of their own, measure, report.

Each task is a study in a folder of its own: all architectures on the same data. Every step leaves
its result and is not repeated if it is there, so a comparison that was stopped or killed goes on
where it was. Runs lie in `cache` under the hash of all that determines them: a comparison to which
an architecture, a task or a seed was added makes only what is new.
"""

import dataclasses
import functools
import shlex
import sys
from pathlib import Path

from ml_collections import ConfigDict

from llm_jax.analysis import capabilities, capability_report, planning, report, workers
from llm_jax.errors import UserError
from llm_jax.training import workdir

CONTESTANT = "llm_jax.analysis.contestant"


@dataclasses.dataclass(frozen=True)
class Study:
  """All architectures on one task.

  Attributes:
    name: the task's; "" where the comparison's own config is the only one.
    folder: of its plan and results.
    plan: plan.json.
  """

  name: str
  folder: Path
  plan: dict

  @property
  def architectures(self) -> list[str]:
    return [architecture["name"] for architecture in self.plan["architectures"]]


def run(config: ConfigDict, folder: Path, command: list[str], progress: bool = True) -> int:
  """Runs a comparison config; writes results.csv and report.html into the folder.

  Args:
    config: `llm_jax.config.comparison()` with its architectures.
    folder: its own folder; what is there of an earlier comparison is used where it still holds.
    command: the command line, for the report.
    progress: whether to show how far each architecture is.

  Returns:
    exit code: 0, 1 if an architecture failed, 75 if a signal stopped it.
  """
  planning.check(config)
  _check_folder(folder)
  words = shlex.join(["python", "launch.py", *command])
  plans = planning.plans(config, words)
  with workdir.lock(folder):
    workdir.write_json(folder / "config.json", config.to_dict())
    studies = [_begin(folder, name, plan) for name, plan in plans.items()]
    jobs = [_job(study, name, "train") for study in studies for name in study.architectures]
    with workers.Crew([job.name for job in jobs], progress) as crew:
      trained = crew.run(jobs, workers.processors(config.compare.workers, len(jobs)))
      measured = {} if crew.stopping else crew.run(_measurements(studies, trained), [""])
    if crew.stopping:
      print("Stopped. Run the same command again to go on.", file=sys.stderr)
      return workers.STOPPED
    for study in studies:
      _finish(study, trained)
    if config.compare.tasks:
      capabilities.write(folder, config, words)
      capability_report.write(folder)
    else:
      report.write(folder)
  print(folder / "report.html")
  return 1 if any(trained.values()) or any(measured.values()) else 0


def _check_folder(folder: Path) -> None:
  """Refuses a folder that holds something else; changes nothing."""
  if (folder / "config.json").exists() and "compare" not in workdir.read_config(folder):
    raise UserError(f"{folder} holds a training run. Choose another --workdir.")
  if (folder / "config.json").exists() and not (folder / "cache").exists():
    raise UserError(
      f"{folder} holds a comparison of an earlier version. Choose another --workdir, or use the "
      "release that made it."
    )
  if not (folder / "config.json").exists():
    workdir.check(folder, ConfigDict())


def _begin(folder: Path, name: str, plan: dict) -> Study:
  """Writes a study's plan."""
  (folder / "cache").mkdir(parents=True, exist_ok=True)
  own = folder / "tasks" / name if name else folder
  own.mkdir(parents=True, exist_ok=True)
  plan |= {"cache": str((folder / "cache").absolute())}
  workdir.write_json(own / "plan.json", plan)
  return Study(name, own, workdir.read_json(own / "plan.json"))


def _job(study: Study, name: str, what: str) -> workers.Job:
  log = study.folder / "logs" / f"{name}.log"
  command = (CONTESTANT, str(study.folder.absolute()), name, what)
  progress = functools.partial(_done, study, name) if what == "train" else lambda: (1.0, what)
  return workers.Job(_label(study, name), command, log, progress)


def _done(study: Study, name: str) -> tuple[float, str]:
  compare, trials = study.plan["config"]["compare"], planning.grid(study.plan)
  steps = len(trials) * compare["tuning_steps"] if len(trials) > 1 else 0
  steps += compare["seeds"] * study.plan["config"]["steps"]
  return workers.progress([study.folder / part / name for part in ("tuning", "runs")], steps)


def _label(study: Study, name: str) -> str:
  return f"{study.name} {name}".strip()


def _measurements(studies: list[Study], trained: dict[str, int]) -> list[workers.Job]:
  """Speed and memory of each architecture, in the first task alone: they hardly depend on it."""
  first = studies[0]
  if not first.plan["config"]["compare"]["contexts"]:
    return []
  done = [name for name in first.architectures if trained.get(_label(first, name)) == 0]
  return [_job(first, name, "measure") for name in done]


def _finish(study: Study, trained: dict[str, int]) -> None:
  """Gathers what the workers left into comparison.json."""
  folder, architectures = study.folder, []
  compare = study.plan["config"]["compare"]
  for planned in study.plan["architectures"]:
    name = planned["name"]
    entry = {key: value for key, value in planned.items() if key != "config"}
    first = study.plan["config"]["seed"]
    entry["seeds"] = list(range(first, first + compare["seeds"]))
    chosen, speed = folder / "tuning" / name / "chosen.json", folder / "speed" / f"{name}.json"
    entry |= workdir.read_json(chosen) if chosen.exists() else {"grid": []}
    if speed.exists():
      entry["memory_bytes"] = workdir.read_json(speed)["memory_bytes"]
    code = trained.get(_label(study, name), workers.STOPPED)
    status = {0: "finished", workers.STOPPED: "unfinished"}.get(code, "failed")
    entry["status"] = status
    if status == "failed":
      entry["error"] = workers.last_words(folder / "logs" / f"{name}.log")
    architectures.append(entry)
  workdir.write_json(folder / "comparison.json", {**study.plan, "architectures": architectures})
