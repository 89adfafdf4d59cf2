"""What the processes of comparisons and studies share: how they live, train and choose a rate."""

import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from llm_jax.errors import UserError
from llm_jax.host import end_with, keep_memory, pin
from llm_jax.training import loop, metrics, workdir
from llm_jax.training.programs import Programs

_PATIENCE = 3600  # seconds
_PROGRAMS = Programs()  # of this process: its runs differ in numbers


def main(job: Callable[[], None], parent: int, processors: str) -> int:
  """Does a job of `workers.Crew`; returns the exit code.

  Args:
    job: may raise UserError, loop.Failed or loop.Stopped.
    parent: the process that must be alive.
    processors: to run on, with commas between them; "": all.
  """
  keep_memory()
  pin(processors)
  signal.signal(signal.SIGTERM, _stop)
  if not end_with(parent):
    return 75
  try:
    job()
  except loop.Stopped:
    return 75
  except (UserError, loop.Failed) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


def _stop(*_):
  """Between two runs there is nothing to save; within one, the loop handles the signal itself."""
  raise loop.Stopped("Stopped between two runs.")


def train(config: ConfigDict, folder: Path) -> dict:
  """Trains, with the compiled programs of this process's former runs. Waits for whoever is at the
  same run: the worker of a killed comparison, or one of an equal config."""
  for _ in range(_PATIENCE):
    try:
      return loop.train(config, folder, progress=False, programs=_PROGRAMS)
    except workdir.InUseError:
      time.sleep(1)
  return loop.train(config, folder, progress=False, programs=_PROGRAMS)


def loss_of_new_text(folder: Path, steps: int, tokens_per_byte: float) -> float | None:
  """Of a short run on text, the training loss over the last quarter of its steps, in bits per byte:
  text that no step had seen, as long as the budget is under one epoch. None if a loss is no number:
  a rate that only nearly diverges is no candidate."""
  rows = [row for row in metrics.read(folder / "metrics.jsonl") if row["split"] == "train"]
  losses = [row["loss"] for row in rows if row["step"] > 0.75 * steps]
  return None if None in losses else float(np.mean(losses)) * tokens_per_byte / math.log(2)


def tune(
  config: ConfigDict, rates: Sequence[float], steps: int, folder: Path, tokens_per_byte: float
) -> dict:
  """Trains with each learning rate on a short budget.

  The score is the loss of new text; validation text takes no part.

  Args:
    config: of a run; all but its learning rate, steps and what it saves is kept.
    rates: to try.
    steps: of a trial.
    folder: of the trials.
    tokens_per_byte: of the training text.

  Returns:
    {"grid": {rate: score, None where training failed}, "learning_rate": the best}.

  Raises:
    UserError: every rate diverges.
  """
  grid = {}
  for rate in rates:
    trial = ConfigDict(config.to_dict())
    trial.optimizer.learning_rate, trial.steps, trial.log.every = rate, steps, 1
    trial.eval.every, trial.eval.batches, trial.checkpoint.every = 0, 1, 0
    run = folder / f"{rate:g}"
    try:
      train(trial, run)
    except loop.Failed:
      grid[f"{rate:g}"] = None
      continue
    grid[f"{rate:g}"] = loss_of_new_text(run, steps, tokens_per_byte)
  finite = {rate: bits for rate, bits in grid.items() if bits is not None}
  if not finite:
    raise UserError(f"No learning rate of {tuple(rates)} trains without diverging.")
  return {"grid": grid, "learning_rate": float(min(finite, key=finite.get))}
