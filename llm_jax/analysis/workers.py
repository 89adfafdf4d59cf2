"""The processes of a comparison: one for each architecture, and what the terminal shows of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import llm_jax
from llm_jax.errors import UserError

STOPPED = 75  # exit code of a process that a signal stopped after saving
_SECONDS_BETWEEN_LINES = 15.0  # where there is no terminal to draw on


def processors(workers: int, jobs: int) -> list[str]:
  """The processors of each worker: an equal part on a CPU, one worker for all of an accelerator.

  Args:
    workers: how many at once; 0: one a core, but no more than jobs, or one on accelerators.
    jobs: how many architectures there are.
  """
  cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
  if not workers:
    probe = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    found = subprocess.run(probe, capture_output=True, text=True).stdout.strip()
    workers = max(1, min(len(cores), jobs)) if found == "cpu" else 1
  if workers > 1 and workers > len(cores):
    raise UserError(f"compare.workers={workers}, but only {len(cores)} processors are free to use.")
  return [",".join(map(str, cores[i::workers])) for i in range(workers)]


def last_words(folder: Path, name: str) -> str:
  """The last line of an architecture's log: why it failed."""
  lines = (folder / "logs" / f"{name}.log").read_text(errors="replace").strip().splitlines()
  return lines[-1] if lines else "no message"


class Crew:
  """Runs the architectures of a plan, as many at once as there are sets of processors.

  Args:
    folder: the comparison's.
    plan: its plan.json.
    shown: whether to show progress.
  """

  def __init__(self, folder: Path, plan: dict, shown: bool):
    self.stopping = False
    self._processes: list[subprocess.Popen] = []
    self._folder = folder
    self._names = [architecture["name"] for architecture in plan["architectures"]]
    self._display = _Display(folder, plan, shown)

  def __enter__(self):
    self._previous = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
    self._display.start()
    return self

  def __exit__(self, *_):
    self._display.stop()
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def train(self, cpu_sets: list[str]) -> dict[str, int]:
    """Exit codes of training each architecture: its learning rates, its seeds, its sample."""
    return self._run("train", self._names, cpu_sets)

  def measure(self, names: list[str]) -> dict[str, int]:
    """Exit codes of measuring speed and memory, one after the other on the whole machine."""
    return self._run("measure", names, [""])

  def _run(self, job, names, cpu_sets):
    waiting, running, codes = list(names), {}, {}
    while running or (waiting and not self.stopping):
      for cpus in [c for c in cpu_sets if c not in running]:
        if waiting and not self.stopping:
          running[cpus] = (waiting[0], self._start(job, waiting.pop(0), cpus))
      time.sleep(0.25)
      for cpus, (name, process) in list(running.items()):
        if process.poll() is not None:
          codes[name] = process.returncode
          del running[cpus]
      self._display.update(job, [name for name, _ in running.values()], codes)
    return codes

  def _stop(self, *_):
    """Passes the signal on: each worker finishes its step and saves."""
    self.stopping = True
    for process in self._processes:
      process.send_signal(signal.SIGTERM)

  def _start(self, job, name, cpus):
    (self._folder / "logs").mkdir(exist_ok=True)
    # The same llm_jax as this one, wherever the command was given.
    paths = [str(Path(llm_jax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    folder, parent = str(self._folder.absolute()), str(os.getpid())
    command = [sys.executable, "-m", "llm_jax.analysis.contestant", folder, name, job, parent]
    with open(self._folder / "logs" / f"{name}.log", "a") as log:
      process = subprocess.Popen(
        [*command, cpus],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,  # Ctrl-C comes to us alone; we pass it on
      )
    self._processes.append(process)
    if self.stopping:  # the signal came while it started
      process.send_signal(signal.SIGTERM)
    return process


class _Display:
  """A bar for each architecture on a terminal, a line now and then elsewhere."""

  def __init__(self, folder, plan, shown):
    self._folder = folder
    compare = plan["config"]["compare"]
    tuning, seeds = len(compare["learning_rates"]), compare["seeds"]
    self._steps = tuning * compare["tuning_steps"] + seeds * plan["config"]["steps"]
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
    self._tasks = {
      a["name"]: self._bars.add_task(a["name"], total=self._steps, phase="waiting", start=False)
      for a in plan["architectures"]
    }

  def start(self):
    self._bars.start()

  def stop(self):
    self._bars.stop()

  def update(self, job, running, codes):
    """Shows how far each running architecture is, and how the others ended."""
    for name in running:
      done, phase = (self._steps, "measuring") if job == "measure" else self._progress(name)
      self._bars.start_task(self._tasks[name])
      self._bars.update(self._tasks[name], completed=done, phase=phase)
      self._phases[name] = f"{name} {100 * done // self._steps} % ({phase})"
    for name, code in codes.items():
      phase = {0: "done", STOPPED: "stopped"}.get(code, "failed")
      self._bars.update(self._tasks[name], phase=phase)
      self._phases[name] = f"{name} {phase}"
    if self._plain and time.monotonic() - self._told > _SECONDS_BETWEEN_LINES:
      self._told = time.monotonic()
      self._plain.print("  ".join(self._phases.values()), highlight=False)

  def _progress(self, name):
    """Steps made in all runs of an architecture, and what its newest run does."""
    files = sorted((self._folder / "tuning" / name).glob("*/metrics.jsonl"))
    files += sorted((self._folder / "runs" / name).glob("*/metrics.jsonl"))
    rows = [_last_row(file) for file in files]
    newest = max(zip(files, rows, strict=True), key=lambda f: f[0].stat().st_mtime, default=None)
    if newest is None:
      return 0, "starting"
    file, row = newest
    what = f"rate {file.parent.name}" if "tuning" in file.parts[-4:-1] else file.parent.name
    return sum(r.get("step", 0) for r in rows), f"{what}: loss {row.get('loss') or 0:.3f}"


def _last_row(file: Path) -> dict:
  """The last whole line of a metrics.jsonl; {} if there is none yet."""
  with open(file, "rb") as stream:
    stream.seek(max(0, file.stat().st_size - 2000))
    for line in reversed(stream.read().splitlines()):
      try:
        return json.loads(line)
      except ValueError:
        continue
  return {}
