"""One architecture of a comparison, in a process of its own.

  python -m llm_jax.analysis.contestant FOLDER NAME train|measure PARENT PROCESSORS

"train" tries each learning rate, trains every seed with the best one and writes a sample;
"measure" times training, prefill and decoding. What a former process finished is not repeated.
"""

import ctypes
import math
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from llm_jax.analysis import speed
from llm_jax.analysis.training_speed import measure_training
from llm_jax.errors import UserError
from llm_jax.host import keep_memory
from llm_jax.inference.prompt import continuation
from llm_jax.training import loop, metrics, workdir

_PATIENCE = 60  # seconds
_PARENT_DEATH_SIGNAL = 1  # prctl's option, Linux


def main(folder: Path, name: str, job: str, parent: int, processors: str) -> int:
  """Does the job; returns the exit code."""
  keep_memory()
  if processors and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, map(int, processors.split(",")))  # before JAX counts its threads
  signal.signal(signal.SIGTERM, _stop)
  if sys.platform == "linux":  # a killed comparison leaves nobody training on
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != parent:
      return 75
  plan = workdir.read_json(folder / "plan.json")
  [architecture] = [a for a in plan["architectures"] if a["name"] == name]
  try:
    {"train": _train, "measure": _measure}[job](folder, plan, architecture)
  except loop.Stopped:
    return 75
  except (UserError, loop.Failed) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


def _stop(*_):
  """Between two runs there is nothing to save; within one, the loop handles the signal itself."""
  raise loop.Stopped("Stopped between two runs.")


def _train(folder, plan, architecture):
  name, compare = architecture["name"], plan["config"]["compare"]
  chosen = folder / "tuning" / name / "chosen.json"
  if not chosen.exists():
    workdir.write_json(chosen, _tune(folder, plan, architecture))
  rate = workdir.read_json(chosen)["learning_rate"]
  first = plan["config"]["seed"]
  for seed in range(first, first + compare["seeds"]):
    config = _config(architecture, seed, rate)
    _run(config, folder / "runs" / name / f"seed_{seed}")
  sample = folder / "samples" / f"{name}.json"
  if not sample.exists():
    sample.parent.mkdir(exist_ok=True)
    workdir.write_json(sample, _sample(folder / "runs" / name / f"seed_{first}", compare["prompt"]))


def _run(config, folder):
  """Trains; waits a little for the worker of a killed comparison, which may still be saving."""
  for _ in range(_PATIENCE):
    try:
      return loop.train(config, folder, progress=False)
    except workdir.InUseError:
      time.sleep(1)
  return loop.train(config, folder, progress=False)


def _tune(folder, plan, architecture):
  """Trains each learning rate on the short budget; {"grid": {rate: score}, "learning_rate": best}.

  The score is the training loss over the last quarter of the steps, in bits per byte: text that
  no step had seen, as long as the budget is under one epoch. Validation text takes no part.
  """
  compare, grid = plan["config"]["compare"], {}
  for rate in compare["learning_rates"]:
    config = _config(architecture, plan["config"]["seed"], rate)
    config.log.every = 1
    config.steps, config.eval.every, config.eval.batches = compare["tuning_steps"], 0, 1
    config.checkpoint.every = 0
    run = folder / "tuning" / architecture["name"] / f"{rate:g}"
    try:
      _run(config, run)
    except loop.Failed:
      grid[f"{rate:g}"] = None
      continue
    rows = [r for r in metrics.read(run / "metrics.jsonl") if r["split"] == "train"]
    losses = [r["loss"] for r in rows if r["step"] > 0.75 * config.steps]
    per_byte = plan["tokenizer"]["tokens_per_byte"] / math.log(2)
    # A step whose loss is no number has None: a rate that only nearly diverges is no candidate.
    grid[f"{rate:g}"] = None if None in losses else float(np.mean(losses)) * per_byte
  finite = {rate: bits for rate, bits in grid.items() if bits is not None}
  if not finite:
    raise UserError(f"No learning rate of {compare['learning_rates']} trains without diverging.")
  return {"grid": grid, "learning_rate": float(min(finite, key=finite.get))}


def _config(architecture, seed, learning_rate):
  config = ConfigDict(architecture["config"])
  config.seed, config.optimizer.learning_rate = seed, learning_rate
  return config


def _sample(run, prompt):
  """A continuation of the prompt by the first seed, at a fixed sampling seed."""
  options = {"max_new_tokens": 120, "temperature": 0.8, "top_p": 0.95, "seed": 0}
  return {"prompt": prompt, "text": "".join(continuation(run, prompt, **options)), **options}


def _measure(folder, plan, architecture):
  path = folder / "speed" / f"{architecture['name']}.json"
  if path.exists():
    return
  path.parent.mkdir(exist_ok=True)
  config = ConfigDict(architecture["config"])
  result = speed.measure(config.model, plan["config"]["compare"]["contexts"], config.dtype)
  workdir.write_json(path, {**result, **measure_training(config)})


if __name__ == "__main__":
  given_folder, given_name, given_job, given_parent, given_processors = sys.argv[1:]
  sys.exit(main(Path(given_folder), given_name, given_job, int(given_parent), given_processors))
