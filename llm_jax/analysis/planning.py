"""What a comparison decides before it trains: data, widths, grids; a mistake shows here."""

import dataclasses
import itertools
import sys
from pathlib import Path

from ml_collections import ConfigDict

from llm_jax import objective
from llm_jax.analysis import byte_model, counts, entrants, matching
from llm_jax.errors import UserError, unknown
from llm_jax.evaluation import synthetic
from llm_jax.models import build
from llm_jax.training import inputs, strategies, workdir
from llm_jax.training.early_stopping import lower_is_better

MATCHES = ("", "parameters", "flops_per_token", "state_bytes", "seconds")
# What every architecture takes from a study's config: all but its model and learning rate.
_SHARED = (
  "steps",
  "batch_size",
  "seq_len",
  "dtype",
  "objective",
  "objective_options",
  "data",
  "tokenizer",
  "schedule",
  "parallel",
  "checkpoint",
  "eval",
  "early_stopping",
  "log",
)
# What a task takes from the comparison instead of its own experiment.
_OF_COMPARISON = ("seed", "dtype", "parallel", "checkpoint", "log", "compare")


def check(config: ConfigDict) -> None:
  """Refuses numbers that would fail only after minutes of training."""
  compare = config.compare
  for name, least in (("tuning_steps", 1), ("seeds", 1), ("workers", 0)):
    if compare[name] < least:
      raise UserError(f"compare.{name} must be at least {least}, found {compare[name]}.")
  for name in ("architectures", "learning_rates"):
    if not compare[name]:
      raise UserError(f"compare.{name} is empty; give at least one.")
  if compare.contexts and min(compare.contexts) < 2:
    raise UserError(f"compare.contexts must be 2 or more each, found {min(compare.contexts)}.")
  if not compare.contexts and not compare.tasks:
    raise UserError("compare.contexts is empty; give at least one.")
  if compare.match not in MATCHES:
    raise unknown("compare.match", compare.match, MATCHES)
  if compare.match and compare[compare.match] <= 0:
    raise UserError(
      f"compare.match is {compare.match!r}: compare.{compare.match} must be above 0, found "
      f"{compare[compare.match]}."
    )
  rates, rate = compare.learning_rates, config.optimizer.learning_rate
  if rate not in rates:
    raise UserError(
      f"optimizer.learning_rate is the default setting that a comparison reports beside the best; "
      f"it must be one of compare.learning_rates {tuple(rates)}, found {rate}."
    )


def plans(config: ConfigDict, command: str) -> dict[str, dict]:
  """The plan of each study, by the task's name; of "" where the config names no tasks."""
  if not config.compare.tasks:
    return {"": _plan(config, command)}
  made = {}
  for name in config.compare.tasks:
    task = entrants.find(name, config.compare.variants)
    own, merged = task.config, ConfigDict(config.to_dict())
    for key in own:
      if key not in (*_OF_COMPARISON, "model", "optimizer", "init_from"):
        merged[key] = own[key]
    merged.optimizer.weight_decay = own.optimizer.weight_decay
    changes = dict(task.changes)
    entrants.change(merged, changes, name)
    asked = objective.make(merged)
    if hasattr(asked, "symbols"):
      merged.seq_len = asked.made.length  # a variant of other sizes has another one
    made[name.replace(":", "_").replace("/", "_")] = _plan(merged, command) | {"task": task.title}
  return made


def _plan(config: ConfigDict, command: str) -> dict:
  """Everything that is decided before training a study."""
  plan, compare = of_data(config, command), config.compare
  vocab_size = plan["tokenizer"]["vocab_size"]
  return plan | {
    "target_parameters": _target_parameters(compare),
    "tolerance": compare.tolerance,
    "architectures": [
      architecture(name, config, compare, vocab_size) for name in compare.architectures
    ],
  }


def of_data(config: ConfigDict, command: str) -> dict:
  """What a plan says of the command, the machine, the data and its vocabulary."""
  print("Reading the data, solving for widths ...", file=sys.stderr)
  text, asked = inputs.load_text(config), objective.make(config)
  own = hasattr(asked, "symbols")
  tokenizer = inputs.load_tokenizer(config, Path(), text)
  metric = asked.made.METRIC if own else "bits_per_byte"
  return {
    "version": 2,
    "command": command,
    "environment": workdir.environment(),
    "config": config.to_dict(),
    "metric": metric,
    "higher_is_better": not lower_is_better(metric),
    "kinds": list(asked.made.groups) if own else [],
    "guessing": _guessing(asked) if own else {},
    "text": text.sha256,
    "tokenizer": {
      "name": "symbols" if own else config.tokenizer.name,
      "vocab_size": tokenizer.vocab_size,
      "sha256": tokenizer.sha256,
    },
    **({} if own else _text(text, tokenizer)),
  }


def _guessing(asked) -> dict[str, float]:
  """What guessing reaches in the task's metric, by kind of held-out example and ("") in all."""
  read = lambda asked: asked.examples(asked.parts()[1].records, None, (), asked.made.length)
  others = dataclasses.replace(asked, held_out_seed=asked.held_out_seed + 1)
  found = synthetic.guessing(read(asked), read(others), asked.made)
  return {"": found[asked.made.METRIC], **found["by_kind"]}


def _target_parameters(compare) -> int | None:
  return compare.parameters if compare.match in ("parameters", "seconds") else None


def _text(text, tokenizer) -> dict:
  """What is said of a corpus: its size, and what byte models make of it."""
  train, validation = ([c for c, _ in part] for part in (text.train, text.validation))
  documents = [[d for c in part for d in c.documents] for part in (train, validation)]
  train_bytes = sum(c.num_bytes for c in train)
  return {
    "corpus": {
      "name": " + ".join(c.name.removesuffix(" (training)") for c in train),
      "sha256": text.sha256,
      "train_bytes": train_bytes,
      "validation_bytes": text.validation_bytes,
      "train_documents": len(documents[0]),
      "validation_documents": len(documents[1]),
    },
    "tokens_per_byte": sum(map(len, tokenizer.encode_documents(documents[0]))) / train_bytes,
    "byte_model": {str(order): byte_model.bits_per_byte(*documents, order) for order in (1, 2, 3)},
  }


def architecture(name: str, study: ConfigDict, options: ConfigDict, vocab_size: int) -> dict:
  """The run config of one architecture, its width solved for, and its counts.

  Args:
    name: of an experiment or a variant.
    study: whose shared names every run takes.
    options: `variants`, `model` (what every model takes), `match`, `tolerance` and the target.
    vocab_size: of the data.
  """
  entrant = entrants.find(name, options.variants)
  config, asked = entrant.config, objective.make(study)
  for key in _SHARED:
    if key in study:
      config[key] = study[key]
  # Each model gets a learning rate and a weight decay of its own from the grid.
  config.optimizer.update(study.optimizer)
  config.model.update({"vocab_size": vocab_size, **options.model.to_dict()})
  if asked.HEAD not in config.model.heads:
    config.model.heads = (asked.HEAD,)
  if config.model.positions == "learned":
    longest = max(config.seq_len, getattr(asked, "longest", 0))
    config.model.max_length = max(config.model.max_length, longest)
  entrants.change(config, entrant.changes, name)
  targets = asked.target_length(config.seq_len)
  config.model = _matched(config.model, options, config.seq_len, targets)
  model = build.build(config.model, config.dtype)
  strategies.make(config, model, asked)  # refuses what cannot run
  objective.check_suits(asked, config.objective, model.spec)
  return {
    "name": name,
    "title": entrant.title,
    "d_model": config.model.d_model,
    "parameters": counts.parameters(config.model),
    "pattern": _pattern_words(config.model),
    "train_flops_per_token": counts.training_flops_per_token(config.model, config.seq_len, targets),
    "state_bytes": counts.state_bytes(config.model, config.seq_len),
    "config": config.to_dict(),
  }


def _matched(model: ConfigDict, options: ConfigDict, seq_len: int, targets: int) -> ConfigDict:
  """The model with the width that the comparison asks for."""
  count = {
    "parameters": counts.parameters,
    "flops_per_token": lambda m: counts.training_flops_per_token(m, seq_len, targets),
    "state_bytes": lambda m: counts.state_bytes(m, seq_len),
    "seconds": counts.parameters,
  }
  if not options.match or (options.match == "seconds" and not options.parameters):
    return model
  target = options["parameters" if options.match == "seconds" else options.match]
  unit = {"flops_per_token": "training FLOPs a token", "state_bytes": "bytes of state"}
  return matching.match_width(
    model, target, options.tolerance, count[options.match], unit.get(options.match, "parameters")
  )


def _pattern_words(model):
  words = lambda entry: entry if isinstance(entry, str) else "(" + " | ".join(entry) + ")"
  stages = model.stages or ((model.pattern, model.repeats),)
  return " then ".join(f"{' + '.join(map(words, p))} x {repeats}" for p, repeats in stages)


def grid(plan: dict) -> list[tuple[float, float]]:
  """(learning rate, weight decay) of every trial: as many for each architecture."""
  compare, optimizer = plan["config"]["compare"], plan["config"]["optimizer"]
  decays = compare["weight_decays"] or [optimizer["weight_decay"]]
  return list(itertools.product(compare["learning_rates"], decays))
