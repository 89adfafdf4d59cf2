"""One model of a scaling study, in a process of its own: its learning rate, then every length.

  python -m llm_jax.analysis.scaling_worker FOLDER NAME PARENT PROCESSORS

What a former process finished is not repeated. All lengths and seeds share one compiled step.
"""

import functools
import sys
from pathlib import Path

from ml_collections import ConfigDict

from llm_jax.analysis import worker
from llm_jax.training import loop, workdir


def main(folder: Path, name: str) -> None:
  """Trains one entry of the plan's `models`; a length that fails does not stop the others."""
  plan = workdir.read_json(folder / "plan.json")
  [model] = [m for m in plan["models"] if m["name"] == name]
  rate = _learning_rate(folder / "tuning" / name, plan, model)
  failures = []
  for run in model["runs"]:
    config = ConfigDict(model["config"])
    config.seed, config.steps, config.optimizer.learning_rate = run["seed"], run["steps"], rate
    try:
      worker.train(config, folder / run["folder"])
    except loop.Failed as failure:
      failures.append(f"{run['steps']} steps, seed {run['seed']}: {failure}")
  if failures:
    raise loop.Failed("; ".join(failures))


def _learning_rate(folder, plan, model):
  """The best of the grid for this size; the only one there is needs no trial."""
  options, chosen = plan["config"]["scaling"], folder / "chosen.json"
  if not chosen.exists():
    rates, steps = options["learning_rates"], options["tuning_steps"]
    found = {"grid": {}, "learning_rate": rates[0]}
    if len(rates) > 1:
      config = ConfigDict(model["config"])
      config.seed = plan["config"]["seed"]
      found = worker.tune(config, rates, steps, folder, plan["tokens_per_byte"])
    folder.mkdir(parents=True, exist_ok=True)
    workdir.write_json(chosen, found)
  return workdir.read_json(chosen)["learning_rate"]


if __name__ == "__main__":
  given_folder, given_name, given_parent, given_processors = sys.argv[1:]
  job = functools.partial(main, Path(given_folder), given_name)
  sys.exit(worker.main(job, int(given_parent), given_processors))
