"""The worker jobs of a sweep on a SLURM cluster, submitted through submitit."""

import contextlib
import getpass
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import llm_jax
from llm_jax.errors import UserError
from llm_jax.sweeps import worker
from llm_jax.training import workdir

_SECONDS_BETWEEN_QUESTIONS = 5.0  # of the controller
_KILLED = -9  # the exit code of a job that left no result
_KEPT = ("PYTHONPATH", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")


class Slurm:
  """Jobs that work on a sweep. Those that a killed manager left behind go on, and count.

  Args:
    folder: the sweep's, which every node sees.
    size: how many there may be at once.
    options: of submitit's SlurmExecutor, such as partition.

  Raises:
    UserError: there is no SLURM or no submitit here, or an option that is none.
  """

  def __init__(self, folder: Path, size: int, options: dict):
    self.size = size
    self._folder = folder.absolute()
    self._list = self._folder / "logs" / "jobs.json"
    self._executor = _executor(self._folder / "logs", options)
    self._jobs = workdir.read_json(self._list) if self._list.exists() else []
    self._asked, self._alive = 0.0, {}

  @property
  def running(self) -> int:
    return len(self._jobs)

  def start(self) -> None:
    """Submits one more."""
    try:
      job = self._executor.submit(worker.on_cluster, self._folder)
    except subprocess.SubprocessError as error:
      raise UserError(f"SLURM took no job: {error}") from error
    except Exception as error:  # submitit's own, which holds what sbatch said
      raise UserError(f"SLURM took no job: {str(error).strip().splitlines()[-1]}") from error
    self._alive[job.job_id] = "PENDING"
    self._keep([*self._jobs, job.job_id])

  def ended(self) -> list[tuple[int, str]]:
    """(exit code, last words) of those that ended since this was asked; killed ones are below 0."""
    if not self._jobs or not self._ask():
      return []
    over = [job for job in self._jobs if job not in self._alive]
    self._keep([job for job in self._jobs if job in self._alive])
    return [self._result(job) for job in over]

  def stop(self) -> None:
    """Each finishes its step and saves; those that wait for a node are cancelled."""
    if self._jobs:
      # Not scancel's own SIGTERM, which reaches a process twice, through srun too: the second
      # kills it while it saves.
      subprocess.run(["scancel", "--quiet", "--state=PENDING", *self._jobs])
      subprocess.run(["scancel", "--quiet", "--signal=USR2", "--state=RUNNING", *self._jobs])

  def _ask(self):
    """Asks which jobs are alive; False if it is too early, or the controller does not answer."""
    if time.monotonic() - self._asked < _SECONDS_BETWEEN_QUESTIONS:
      return False
    self._asked = time.monotonic()
    command = ["squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%A %T"]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode == 0:
      self._alive = dict(line.split() for line in found.stdout.splitlines())
    return found.returncode == 0

  def _keep(self, jobs):
    self._jobs = jobs
    workdir.write_json(self._list, jobs)

  def _result(self, number):
    from submitit import SlurmJob

    job = SlurmJob(folder=self._folder / "logs", job_id=number)
    if not job.paths.result_pickle.exists():
      return _KILLED, f"job {number} was killed"
    with contextlib.suppress(Exception):
      return job.result(), f"job {number}"
    words = (job.stderr() or "no message").strip().splitlines()
    return 1, f"job {number}: {words[-1]}"


def _executor(logs: Path, options: dict):
  """submitit's, with these options."""
  if not shutil.which("sbatch") or not shutil.which("squeue"):
    raise UserError(
      "--cluster=slurm: no sbatch and squeue here. Run this where jobs are submitted."
    )
  try:
    import submitit
  except ImportError:
    raise UserError(
      "--cluster=slurm needs submitit: pip install -r requirements-slurm.txt"
    ) from None
  paths = [str(Path(llm_jax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
  variables = {name: os.environ[name] for name in _KEPT if name in os.environ}
  variables |= {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
  executor = submitit.SlurmExecutor(folder=logs)
  try:
    executor.update_parameters(
      **{"job_name": logs.parent.name, "time": None, **options},  # None: the partition's
      setup=[f"export {name}={shlex.quote(value)}" for name, value in variables.items()],
    )
  except (TypeError, ValueError) as error:
    raise UserError(f"--cluster-option: {error}") from error
  return executor
