"""The worker processes of a sweep on this machine: each on its processors and GPUs."""

import dataclasses
import os
import signal
import subprocess
from pathlib import Path

from llm_jax.analysis import workers
from llm_jax.errors import UserError

_MEMORY = 0.9  # of a GPU's, shared by the workers on it


@dataclasses.dataclass(frozen=True)
class Place:
  """What one worker may use.

  Attributes:
    processors: such as "0,2"; "": any.
    variables: of its environment, which show it its GPUs alone.
  """

  processors: str
  variables: dict


def places(count: int, trials: int) -> list[Place]:
  """The places of all workers: equal parts of the processors, and of the GPUs.

  Args:
    count: how many; 0: one a core or one a GPU, but no more than trials; more than there are GPUs
      share them.
    trials: how many there are to run.

  Raises:
    UserError: more than there are processors, or several for an accelerator that takes one.
  """
  platform, devices = workers.devices()
  most = {"cpu": len(workers.cores()) or 1, "gpu": devices}.get(platform, 1)
  if count > 1 and platform not in ("cpu", "gpu"):
    raise UserError(f"--workers={count}: one process takes all of a {platform}; leave it out.")
  count = count or min(most, trials)
  parts = workers.shares(count, f"--workers={count}")
  gpus = devices if platform == "gpu" else 0
  return [Place(part, _own_gpus(gpus, i, count) if gpus else {}) for i, part in enumerate(parts)]


def _own_gpus(devices, index, count):
  """The variables that give worker `index` of `count` its part of so many GPUs."""
  if count == 1:
    return {}
  names = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(devices)))
  names = names.split(",")
  each = max(1, devices // count)
  own = [names[(index * each + i) % devices] for i in range(each)]
  variables = {"CUDA_VISIBLE_DEVICES": ",".join(own)}  # AMD's runtime reads it too
  if count > devices:
    variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{_MEMORY / -(-count // devices):.3f}"
  return variables


class Crew:
  """Processes of this machine that work on a sweep.

  Args:
    folder: the sweep's.
    places: of `places`, one a worker.

  Attributes:
    size: how many there may be at once.
  """

  def __init__(self, folder: Path, places: list[Place]):
    self.size = len(places)
    self._folder, self._places = folder.absolute(), places
    self._processes: dict[int, subprocess.Popen] = {}

  @property
  def running(self) -> int:
    return len(self._processes)

  def start(self) -> None:
    """One more, on the first place that is free."""
    index = next(i for i in range(self.size) if i not in self._processes)
    place = self._places[index]
    arguments = [str(self._folder), str(os.getpid()), place.processors]
    self._processes[index] = workers.start(
      "llm_jax.sweeps.worker", arguments, self._log(index), **place.variables
    )

  def ended(self) -> list[tuple[int, str]]:
    """(exit code, last words) of those that ended since this was asked; killed ones are below 0."""
    over = [(i, p.returncode) for i, p in self._processes.items() if p.poll() is not None]
    for index, _ in over:
      del self._processes[index]
    return [(code, workers.last_words(self._log(index))) for index, code in over]

  def stop(self) -> None:
    """Each finishes its step and saves; the second time it dies at once."""
    for process in self._processes.values():
      process.send_signal(signal.SIGTERM)

  def _log(self, index):
    return self._folder / "logs" / f"worker-{index}.log"
