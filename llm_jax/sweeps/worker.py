"""A process that trains the trials of a sweep, one after the other, until none is left to take.

  python -m llm_jax.sweeps.worker FOLDER PARENT PROCESSORS

Exit codes: 0 nothing left to take, 75 stopped by a signal after saving, 1 an error that is no
trial's own.
"""

import contextlib
import gc
import signal
import socket
import sys
import traceback
from pathlib import Path

import jax

from llm_jax.errors import UserError
from llm_jax.host import end_with, keep_memory, pin
from llm_jax.sweeps import sweep as sweeps
from llm_jax.training import loop, workdir
from llm_jax.training.programs import Programs

_MOST_MAPS = 30_000


def main(folder: Path) -> int:
  """Works on the sweep of a folder; returns the exit code."""
  signal.signal(signal.SIGTERM, _stop)
  try:
    sweep, programs = sweeps.read(folder), Programs()
    while _one(sweep, programs):
      _give_back_maps()
  except loop.Stopped as stopped:
    print(stopped, file=sys.stderr)
    return 75
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


def on_cluster(folder: Path) -> int:
  """`main` for a job of SLURM, which sends SIGUSR2 before its time is up."""
  keep_memory()
  signal.signal(signal.SIGUSR2, lambda *_: signal.raise_signal(signal.SIGTERM))
  return main(folder)


def _stop(*_):
  """Between two runs there is nothing to save; within one, the loop handles the signal itself."""
  raise loop.Stopped("Stopped between two trials.")


def _one(sweep: sweeps.Sweep, programs: Programs) -> bool:
  """Runs the first trial that nobody works on; returns whether there was one."""
  for frozen in sweep.study.unfinished():
    with sweep.claims.take(frozen.number) as left:
      if left is None:
        continue
      died_at = _saved(sweep.run_folder(frozen.number)) if left else None
      trial = sweep.study.begin(frozen.number, died_at)
      if trial is not None:
        _run(sweep, trial, programs)
      return True
  return False


def _run(sweep, trial, programs):
  """Trains a trial, and notes how it ended."""
  print(f"trial {trial.number}", file=sys.stderr)
  folder = sweep.run_folder(trial.number)
  try:
    result = _train(sweep, trial, folder, programs) if "pruned" not in trial.user_attrs else {}
  except loop.Stopped:
    raise
  except Exception as error:
    if workdir.is_disk_full(error):  # no trial's fault
      raise
    traceback.print_exc()
    sweep.study.fail(trial, error)
  else:
    sweep.study.finish(trial, result)


def _train(sweep, trial, folder, programs):
  config, metric = sweep.config_of(trial), sweep.study.plan.metric
  _give_up_lock(folder)

  def pruned(step, values):
    if not sweep.study.report(trial, step, values[metric]) or step >= config.steps:
      return False
    trial.set_user_attr("pruned", step)
    return True

  for row in sweep.evaluations(trial.number):  # the last of a killed process may not be reported
    if row.get(metric) is not None and pruned(row["step"], row):
      return {}
  return loop.train(config, folder, progress=False, programs=programs, enough=pruned)


def _give_back_maps():
  """Drops compiled programs before they take all memory maps, of which XLA:CPU makes some for each:
  Linux ends a process that asks for more than 65,530."""
  maps = Path("/proc/self/maps")  # of Linux alone
  if maps.exists() and maps.read_bytes().count(b"\n") > _MOST_MAPS:
    jax.clear_caches()
    gc.collect()


def _give_up_lock(folder):
  """Removes the lock of a process of another host, which is dead: its trial is ours."""
  path = folder / "lock"
  with contextlib.suppress(UserError, AttributeError):  # no lock, or half of one
    if workdir.read_json(path).get("host") != socket.gethostname():
      path.unlink()


def _saved(folder):
  """Steps of the newest checkpoint of a run."""
  steps = [int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdecimal()]
  return max(steps, default=0)


if __name__ == "__main__":
  given_folder, given_parent, given_processors = sys.argv[1:]
  keep_memory()
  pin(given_processors)
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  sys.exit(main(Path(given_folder)) if end_with(int(given_parent)) else 75)
