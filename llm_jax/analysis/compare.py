"""A comparison: plan it, train every architecture in processes of their own, measure, report.

Every step leaves its result in the comparison's folder and is not repeated if it is there, so a
comparison that was stopped or killed goes on where it was.
"""

import shlex
import sys
from pathlib import Path

from ml_collections import ConfigDict

from llm_jax import config as config_schema
from llm_jax import objective
from llm_jax.analysis import byte_model, counts, matching, report, workers
from llm_jax.data import tokenizers
from llm_jax.errors import UserError
from llm_jax.models import build
from llm_jax.training import inputs, strategies, workdir

# What every architecture takes from the comparison's config: all but its model and learning rate.
_SHARED = (
  "steps",
  "batch_size",
  "seq_len",
  "dtype",
  "objective",
  "data",
  "tokenizer",
  "schedule",
  "parallel",
  "checkpoint",
  "eval",
  "log",
)


def run(config: ConfigDict, folder: Path, command: list[str], progress: bool = True) -> int:
  """Runs a comparison config; writes results.csv and report.html into the folder.

  Args:
    config: the shared names of every config, without a model, and `compare`: architectures (names
      of experiments), model (options that all of them take), parameters, tolerance,
      learning_rates, tuning_steps, seeds, contexts, workers (0: as many as fit the machine) and
      prompt.
    folder: its own folder; an unfinished comparison of the same config goes on.
    command: the command line, for the report.
    progress: whether to show how far each architecture is.

  Returns:
    exit code: 0, 1 if an architecture failed, 75 if a signal stopped it.
  """
  _check(config)
  workdir.check(folder, config)
  plan = _plan(config, command)
  with workdir.lock(folder):
    workdir.check(folder, config)  # again: another process may have come first
    plan = _begin(folder, config, plan)
    with workers.Crew(folder, plan, progress) as crew:
      trained = crew.train(workers.processors(config.compare.workers, len(plan["architectures"])))
      done = [name for name, code in trained.items() if code == 0]
      measured = {} if crew.stopping else crew.measure(done)
    if crew.stopping:
      print("Stopped. Run the same command again to go on.", file=sys.stderr)
      return workers.STOPPED
    _finish(folder, plan, trained)
  print(folder / "report.html")
  return 1 if any(trained.values()) or any(measured.values()) else 0


def _check(config):
  """Refuses numbers that would fail only after minutes of training."""
  compare = config.compare
  for name, least in (("tuning_steps", 1), ("seeds", 1), ("parameters", 1), ("workers", 0)):
    if compare[name] < least:
      raise UserError(f"compare.{name} must be at least {least}, found {compare[name]}.")
  for name in ("architectures", "learning_rates", "contexts"):
    if not compare[name]:
      raise UserError(f"compare.{name} is empty; give at least one.")
  if min(compare.contexts) < 2:
    raise UserError(f"compare.contexts must be 2 or more each, found {min(compare.contexts)}.")


def _begin(folder, config, plan):
  """Writes the plan; or takes the one that is there, if it is of the same text and tokenizer."""
  path = folder / "plan.json"
  if not path.exists():
    workdir.write_json(folder / "config.json", config.to_dict())
    workdir.write_json(path, plan)
    return workdir.read_json(path)
  begun = workdir.read_json(path)
  for part in ("corpus", "tokenizer"):
    if begun[part]["sha256"] != plan[part]["sha256"]:
      raise UserError(
        f"The {part} is not the one that {folder} was begun with (sha256 "
        f"{begun[part]['sha256'][:16]} then, {plan[part]['sha256'][:16]} now). Put it back, or "
        "choose another --workdir."
      )
  return begun


def _plan(config, command):
  """Everything that is decided before training; a mistake in the config shows here."""
  print("Reading the corpus, training the tokenizer, solving for widths ...", file=sys.stderr)
  text = inputs.load_text(config)
  train, validation = ([c for c, _ in part] for part in (text.train, text.validation))
  documents = [[d for c in part for d in c.documents] for part in (train, validation)]
  special = objective.make(config).SPECIAL_TOKENS
  tokenizer = tokenizers.get(config.tokenizer, text.train_documents, special=special)
  train_bytes = sum(c.num_bytes for c in train)
  return {
    "version": 1,
    "command": shlex.join(["python", "launch.py", *command]),
    "environment": workdir.environment(),
    "config": config.to_dict(),
    "corpus": {
      "name": " + ".join(c.name.removesuffix(" (training)") for c in train),
      "sha256": text.sha256,
      "train_bytes": train_bytes,
      "validation_bytes": text.validation_bytes,
      "train_documents": len(documents[0]),
      "validation_documents": len(documents[1]),
    },
    "tokenizer": {
      "name": config.tokenizer.name,
      "vocab_size": tokenizer.vocab_size,
      "sha256": tokenizer.sha256,
      "tokens_per_byte": sum(map(len, tokenizer.encode_documents(documents[0]))) / train_bytes,
    },
    "byte_model": {str(order): byte_model.bits_per_byte(*documents, order) for order in (1, 2, 3)},
    "target_parameters": config.compare.parameters,
    "tolerance": config.compare.tolerance,
    "architectures": [
      _architecture(name, config, tokenizer.vocab_size) for name in config.compare.architectures
    ],
  }


def _architecture(name, comparison, vocab_size):
  """The run config of one architecture, its width solved for, and its counts."""
  path = config_schema.EXPERIMENTS / f"{name}.py"
  config = config_schema.load(str(path), [])
  for key in _SHARED:
    config[key] = comparison[key]
  # Each model gets a learning rate of its own from the grid.
  config.optimizer.update(comparison.optimizer)
  config.model.update({"vocab_size": vocab_size, **comparison.compare.model})
  if config.model.positions == "learned":
    config.model.max_length = max(config.model.max_length, config.seq_len)
  target, tolerance = comparison.compare.parameters, comparison.compare.tolerance
  config.model = matching.match_width(config.model, target, tolerance)
  model = build.build(config.model, config.dtype)
  chosen = objective.make(config)
  strategies.make(config, model, chosen)  # refuses what cannot run
  targets = chosen.target_length(config.seq_len)
  return {
    "name": name,
    "title": path.read_text().split('"""')[1].partition(":")[0],
    "d_model": config.model.d_model,
    "parameters": counts.parameters(config.model),
    "pattern": _pattern_words(config.model),
    "train_flops_per_token": counts.training_flops_per_token(config.model, config.seq_len, targets),
    "config": config.to_dict(),
  }


def _pattern_words(model):
  words = lambda entry: entry if isinstance(entry, str) else "(" + " | ".join(entry) + ")"
  stages = model.stages or ((model.pattern, model.repeats),)
  return " then ".join(f"{' + '.join(map(words, p))} x {repeats}" for p, repeats in stages)


def _finish(folder: Path, plan: dict, trained: dict[str, int]) -> None:
  """Gathers what the workers left into comparison.json, then results.csv and report.html."""
  architectures = []
  for planned in plan["architectures"]:
    name = planned["name"]
    entry = {key: value for key, value in planned.items() if key != "config"}
    first = plan["config"]["seed"]
    entry["seeds"] = list(range(first, first + plan["config"]["compare"]["seeds"]))
    chosen, speed = folder / "tuning" / name / "chosen.json", folder / "speed" / f"{name}.json"
    entry |= workdir.read_json(chosen) if chosen.exists() else {"grid": {}}
    if speed.exists():
      entry["memory_bytes"] = workdir.read_json(speed)["memory_bytes"]
    status = {0: "finished", workers.STOPPED: "unfinished"}.get(trained[name], "failed")
    entry["status"] = status
    if status == "failed":
      entry["error"] = workers.last_words(folder, name)
    architectures.append(entry)
  workdir.write_json(folder / "comparison.json", {**plan, "architectures": architectures})
  report.write(folder)
