"""The processes of a comparison: a job each, and what the terminal shows of them."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import llm_jax
from llm_jax.errors import UserError

STOPPED = 75  # exit code of a process that a signal stopped after saving
_SECONDS_BETWEEN_LINES = 15.0  # where there is no terminal to draw on
_MOST_BARS = 12  # more jobs than these have bars only while they run


@dataclasses.dataclass(frozen=True)
class Job:
  """One process.

  Attributes:
    name: what it is called on the terminal; different for each.
    command: module and arguments after `python -m`; the number of this process and the processors
      to use ("0,1", "" for all) are added.
    log: the file its output is added to.
    progress: () -> (share done, what it does now), read while it runs.
  """

  name: str
  command: tuple[str, ...]
  log: Path
  progress: Callable[[], tuple[float, str]]


def processors(workers: int, jobs: int) -> list[str]:
  """The processors of each worker: an equal part on a CPU, one worker for all of an accelerator.

  Args:
    workers: how many at once; 0: one a core, but no more than jobs, or one on accelerators.
    jobs: how many there are.
  """
  if not workers:
    workers = max(1, min(len(cores()), jobs)) if devices()[0] == "cpu" else 1
  return shares(workers, f"workers={workers}")


def devices() -> tuple[str, int]:
  """(platform, how many) of what JAX finds here; asked in a process of its own, so that this one
  holds none of them."""
  probe = "import jax; print(jax.default_backend(), jax.local_device_count())"
  found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
  if found.returncode:
    raise UserError(f"JAX does not start here: {found.stderr.strip().splitlines()[-1]}")
  platform, count = found.stdout.split()[-2:]
  return platform, int(count)


def cores() -> list[int]:
  """The processors that this process may use; [] where the system does not tell."""
  return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def shares(workers: int, asked: str) -> list[str]:
  """An equal part of the processors for each worker, such as "0,2".

  Args:
    workers: how many.
    asked: what the user wrote, for the error.

  Raises:
    UserError: fewer processors than workers.
  """
  found = cores()
  if found and workers > len(found):
    raise UserError(f"{asked}, but only {len(found)} processors are free to use.")
  return [",".join(map(str, found[i::workers])) for i in range(workers)]  # "": any


def start(module: str, arguments: list[str], log: Path, **variables: str) -> subprocess.Popen:
  """Starts `python -m module arguments` with the same llm_jax as this one, wherever the command
  was given.

  Args:
    log: the file that its output is added to.
    variables: of its environment, beside ours.
  """
  paths = [str(Path(llm_jax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
  path = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
  log.parent.mkdir(parents=True, exist_ok=True)
  with open(log, "a") as output:
    return subprocess.Popen(
      [sys.executable, "-m", module, *arguments],
      stdin=subprocess.DEVNULL,
      stdout=output,
      stderr=output,
      env=os.environ | path | variables,
      start_new_session=True,  # Ctrl-C comes to us alone; we pass it on
    )


def last_words(log: Path) -> str:
  """The last line of a log: why its process failed."""
  lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
  return lines[-1] if lines else "no message"


def progress(folders: Sequence[Path], steps: int) -> tuple[float, str]:
  """How many of the steps were made in all runs inside some folders, and what the newest one does.

  Args:
    folders: of a job's runs; trials of settings lie in one inside "tuning".
    steps: of all of the job's runs together.
  """
  files = sorted(file for folder in folders for file in folder.glob("*/metrics.jsonl"))
  rows = [last_row(file) for file in files]
  newest = max(zip(files, rows, strict=True), key=lambda f: f[0].stat().st_mtime, default=None)
  if newest is None:
    return 0.0, "starting"
  file, row = newest
  what = f"trial {file.parent.name}" if file.parts[-4] == "tuning" else file.parent.name
  return sum(r.get("step", 0) for r in rows) / steps, f"{what}: loss {row.get('loss') or 0:.3f}"


def last_row(file: Path) -> dict:
  """The last whole line of a metrics.jsonl; {} if there is none yet."""
  with open(file, "rb") as stream:
    stream.seek(max(0, file.stat().st_size - 2000))
    for line in reversed(stream.read().splitlines()):
      try:
        return json.loads(line)
      except ValueError:
        continue
  return {}


class Crew:
  """Runs jobs, as many at once as there are sets of processors. A context manager: inside it a
  signal is passed on to the processes, and nothing new is started.

  Args:
    names: of all jobs there will be, in the order they are shown.
    shown: whether to show progress.
  """

  def __init__(self, names: Sequence[str], shown: bool):
    self.stopping = False
    self._processes: list[subprocess.Popen] = []
    self._display = _Display(names, shown)

  def __enter__(self):
    self._previous = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
    self._display.start()
    return self

  def __exit__(self, *_):
    self._display.stop()
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def run(self, jobs: Sequence[Job], cpu_sets: Sequence[str]) -> dict[str, int]:
    """Exit codes by the jobs' names; those that a signal kept from starting are missing."""
    waiting, running, codes = list(jobs), {}, {}
    while running or (waiting and not self.stopping):
      for cpus in [c for c in cpu_sets if c not in running]:
        if waiting and not self.stopping:
          running[cpus] = (waiting[0], self._start(waiting.pop(0), cpus))
      time.sleep(0.25)
      for cpus, (job, process) in list(running.items()):
        if process.poll() is not None:
          codes[job.name] = process.returncode
          del running[cpus]
      self._display.update([job for job, _ in running.values()], codes)
    return codes

  def _stop(self, *_):
    """Passes the signal on: each worker finishes its step and saves."""
    self.stopping = True
    for process in self._processes:
      process.send_signal(signal.SIGTERM)

  def _start(self, job, cpus):
    module, *arguments = job.command
    process = start(module, [*arguments, str(os.getpid()), cpus], job.log)
    self._processes.append(process)
    if self.stopping:  # the signal came while it started
      process.send_signal(signal.SIGTERM)
    return process


class _Display:
  """A bar for each job on a terminal, a line now and then elsewhere."""

  def __init__(self, names, shown):
    console = Console(stderr=True, quiet=not shown)
    self._plain = console if not console.is_terminal else None
    self._told, self._phases = 0.0, {}
    self._bars = Progress(
      TextColumn("{task.description:10}"),
      BarColumn(),
      TextColumn("{task.percentage:>3.0f} %  {task.fields[phase]}"),
      TimeElapsedColumn(),
      TimeRemainingColumn(),
      console=console,
      disable=self._plain is not None,
    )
    self._few = len(names) <= _MOST_BARS
    self._all = self._bars.add_task("all", total=len(names), phase="", visible=not self._few)
    self._tasks = {
      name: self._bars.add_task(name, total=1.0, phase="waiting", start=False, visible=self._few)
      for name in names
    }

  def start(self):
    self._bars.start()

  def stop(self):
    self._bars.stop()

  def update(self, running, codes):
    """Shows how far each running job is, and how the others ended."""
    for job in running:
      done, phase = job.progress()
      self._bars.start_task(self._tasks[job.name])
      self._bars.update(self._tasks[job.name], completed=min(done, 1.0), phase=phase, visible=True)
      self._phases[job.name] = f"{job.name} {min(int(100 * done), 100)} % ({phase})"
    for name, code in codes.items():
      phase = {0: "done", STOPPED: "stopped"}.get(code, "failed")
      self._bars.update(self._tasks[name], phase=phase, visible=self._few)
      self._phases[name] = f"{name} {phase}"
    self._bars.update(self._all, completed=len(codes), phase=f"{len(codes)} done")
    if self._plain and time.monotonic() - self._told > _SECONDS_BETWEEN_LINES:
      self._told = time.monotonic()
      self._plain.print(self._line(running, codes), soft_wrap=True, highlight=False)

  def _line(self, running, codes):
    if self._few:
      return "  ".join(self._phases.values())
    failed = sum(code not in (0, STOPPED) for code in codes.values())
    head = f"{len(codes)} of {len(self._tasks)} done" + (f", {failed} failed" if failed else "")
    return "  ".join([head, *(self._phases[job.name] for job in running)])
