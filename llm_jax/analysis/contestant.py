"""One architecture of a study, in a process of its own.

  python -m llm_jax.analysis.contestant FOLDER NAME train|measure PARENT PROCESSORS

"train" tries each setting of the grid, trains every seed with the best one and, of a text, writes a
sample; "measure" times training, prefill and decoding. What a former process finished is not
repeated: runs lie in the plan's cache, and the study's folder links to them.
"""

import functools
import hashlib
import json
import math
import os
import sys
from pathlib import Path

from ml_collections import ConfigDict

from llm_jax import objective
from llm_jax.analysis import planning, speed, worker
from llm_jax.analysis.training_speed import measure_training
from llm_jax.errors import UserError
from llm_jax.inference.prompt import continuation
from llm_jax.training import loop, workdir

_TUNING = 1  # seed of the held-out examples that settings are chosen by; scores have their own


def main(folder: Path, name: str, job: str) -> None:
  """Does the job."""
  plan = workdir.read_json(folder / "plan.json")
  [architecture] = [a for a in plan["architectures"] if a["name"] == name]
  {"train": _train, "measure": _measure}[job](folder, plan, architecture)


def _train(folder, plan, architecture):
  name, compare = architecture["name"], plan["config"]["compare"]
  architecture = architecture | {"config": _paced(folder, plan, architecture)}
  chosen = _tune(folder, plan, architecture)
  (folder / "tuning" / name).mkdir(parents=True, exist_ok=True)
  workdir.write_json(folder / "tuning" / name / "chosen.json", chosen)
  setting = chosen["learning_rate"], chosen["weight_decay"]
  first = plan["config"]["seed"]
  for seed in range(first, first + compare["seeds"]):
    config = _config(architecture, seed, *setting)
    _run(config, plan, folder / "runs" / name / f"seed_{seed}")
  if "corpus" in plan:
    _write_sample(folder, name, first, compare["prompt"])


def _paced(folder, plan, architecture):
  """The architecture's config, with as many steps as fit the seconds if those are matched."""
  config, compare = ConfigDict(architecture["config"]), plan["config"]["compare"]
  if compare["match"] != "seconds":
    return config.to_dict()
  path = folder / "pace" / f"{architecture['name']}.json"
  if not path.exists():
    path.parent.mkdir(exist_ok=True)
    rate = measure_training(config)["train_tokens_per_second"]
    steps = round(compare["seconds"] * rate / (config.batch_size * config.seq_len))
    workdir.write_json(path, {"train_tokens_per_second": rate, "steps": max(steps, 1)})
  config.steps = workdir.read_json(path)["steps"]
  return config.to_dict()


def _run(config, plan, link):
  """Trains, in the cache under the hash of all that determines the run; `link` points to it."""
  told = json.dumps([config.to_dict(), plan["text"], plan["tokenizer"]["sha256"]], sort_keys=True)
  folder = Path(plan["cache"]) / hashlib.sha256(told.encode()).hexdigest()[:16]
  _link(link, os.path.relpath(folder, link.parent))
  return worker.train(config, folder)


def _link(link, target):
  link.parent.mkdir(parents=True, exist_ok=True)
  if link.is_symlink() and os.readlink(link) == target:
    return
  link.unlink(missing_ok=True)
  link.symlink_to(target, target_is_directory=True)


def _tune(folder, plan, architecture) -> dict:
  """Trains each setting on the short budget.

  Returns:
    "grid": a dict a setting, with learning_rate, weight_decay and score, None where training
    failed; the best setting; and "default", the row of the config's own setting.
  """
  compare, rows = plan["config"]["compare"], []
  trials = planning.grid(plan)
  if len(trials) == 1:
    [(rate, decay)] = trials
    return {"grid": [], "learning_rate": rate, "weight_decay": decay}
  for rate, decay in trials:
    config = _config(architecture, plan["config"]["seed"], rate, decay)
    run = folder / "tuning" / architecture["name"] / f"{rate:g}_{decay:g}"
    score = _trial(config, plan, run, compare["tuning_steps"])
    rows.append({"learning_rate": rate, "weight_decay": decay, "score": score})
  finite = [row for row in rows if row["score"] is not None]
  if not finite:
    raise UserError(f"No learning rate of {compare['learning_rates']} trains without diverging.")
  sign = -1 if plan["higher_is_better"] else 1
  best = min(finite, key=lambda row: sign * row["score"])
  optimizer = plan["config"]["optimizer"]
  own = [row for row in rows if row["learning_rate"] == optimizer["learning_rate"]]
  default = min(own, key=lambda row: abs(row["weight_decay"] - optimizer["weight_decay"]))
  setting = {name: best[name] for name in ("learning_rate", "weight_decay")}
  return {"grid": rows, **setting, "default": default}


def _trial(config, plan, run, steps) -> float | None:
  """The score of a setting on data that the final score never sees; None if training failed.

  Of a task: the metric on held-out examples of another seed. Of a text: the loss of new text.
  """
  of_text = "corpus" in plan
  config.steps, config.checkpoint.every, config.eval.every = steps, 0, 0
  if of_text:
    config.log.every, config.eval.batches = 1, 1
  else:
    config.objective_options.held_out_seed += _TUNING
  try:
    result = _run(config, plan, run)
  except loop.Failed:
    return None
  if of_text:
    return worker.loss_of_new_text(run, steps, plan["tokens_per_byte"])
  score = result[plan["metric"]]
  return score if math.isfinite(score) else None


def _config(architecture, seed, learning_rate, weight_decay):
  config = ConfigDict(architecture["config"])
  config.seed, config.optimizer.learning_rate = seed, learning_rate
  config.optimizer.weight_decay = weight_decay
  return config


def _write_sample(folder, name, seed, prompt):
  """A continuation of the prompt by the first seed, at a fixed sampling seed."""
  run = folder / "runs" / name / f"seed_{seed}"
  options = {"max_new_tokens": 120, "temperature": 0.8, "top_p": 0.95, "seed": 0}
  kept = run / "sample.json"
  if not kept.exists() or workdir.read_json(kept)["prompt"] != prompt:
    text = "".join(continuation(run, prompt, **options))
    workdir.write_json(kept, {"prompt": prompt, "text": text, **options})
  (folder / "samples").mkdir(exist_ok=True)
  workdir.write_json(folder / "samples" / f"{name}.json", workdir.read_json(kept))


def _measure(folder, plan, architecture):
  config = ConfigDict(architecture["config"])
  contexts = plan["config"]["compare"]["contexts"]
  told = json.dumps([config.to_dict(), contexts], sort_keys=True)
  kept = Path(plan["cache"]) / f"speed-{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"
  if not kept.exists():
    found = speed.measure(config.model, contexts, config.dtype) if _streams(config) else {}
    workdir.write_json(kept, {**found, **measure_training(config)})
  (folder / "speed").mkdir(exist_ok=True)
  workdir.write_json(folder / "speed" / f"{architecture['name']}.json", workdir.read_json(kept))


def _streams(config) -> bool:
  """Whether there is a next token to decode."""
  return objective.make(config).HEAD == "language_model"


if __name__ == "__main__":
  given_folder, given_name, given_job, given_parent, given_processors = sys.argv[1:]
  todo = functools.partial(main, Path(given_folder), given_name, given_job)
  sys.exit(worker.main(todo, int(given_parent), given_processors))
