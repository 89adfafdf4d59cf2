"""The config schema: the names every experiment shares, and how a config is checked.

An experiment's `get_config()` starts from `base()` and sets what differs. Names and their order
here are the public command line: `--config.optimizer.learning_rate=3e-4` works on all of them.
"""

import importlib.util
import sys
from collections.abc import Collection
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from llm_jax.errors import UserError, unknown

CONFIG_VERSION = 1
EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
# What of `model` belongs to the data and the objective, and stays when another takes its place.
_OF_THE_JOB = ("heads", "num_classes", "pooling", "vocab_size")


def base() -> ConfigDict:
  """Every shared name at its default; the model is the experiment's own."""
  return ConfigDict(
    {
      "version": CONFIG_VERSION,
      "seed": 0,
      "steps": 200,
      "batch_size": 16,  # sequences in a step, all devices together
      "seq_len": 128,
      "dtype": "float32",  # compute type; parameters and optimizer state stay float32
      "init_from": "",  # a run folder or checkpoint to take the parameters from
      "model_from_source": False,  # with init_from: its tokenizer and its model, all but the heads
      "freeze": (),  # regexes of the parameters that stay as they are, such as "embed/.*"
      "objective": "next_token",
      "objective_options": {},  # the objective's fields, see `objectives`
      "model": {},
      "data": {
        "path": "",  # "": the embedded corpus; else a file, a glob or datasets:NAME
        "mixture": (),  # ((path, weight), ...) instead of one path
        "validation_path": "",  # "": a fraction of the above is held out
        "validation_fraction": 0.05,  # of the documents
        "pack": True,  # several documents in a row; False: one document a row, padded
      },
      "tokenizer": {
        "name": "bpe",  # byte, char, word, bpe, wordpiece, unigram; or a published one's path
        "vocab_size": 1024,  # of a trained tokenizer
      },
      "unfreeze": {"every": 0},  # steps from one block's unfreezing to the next; 0: all train
      "optimizer": {
        "name": "adamw",  # adamw, adam, sgd, lion, adafactor, muon, adagrad
        "learning_rate": 4e-3,
        "b1": 0.9,
        "b2": 0.95,
        "epsilon": 1e-8,
        "weight_decay": 0.1,
        "decay_mask": (),  # ((regex of a parameter path, decays?), ...); (): the layers' own rule
        "clip_norm": 1.0,  # 0: no clipping
        "groups": (),  # ((regex of a parameter path, factor of the learning rate), ...)
        "accumulation": 1,  # micro-batches a step
      },
      "schedule": {
        "name": "cosine",  # constant, cosine, linear, wsd, inverse_sqrt
        "warmup_fraction": 0.05,  # of the steps
        "decay_fraction": 0.2,  # wsd: the last part of the steps, in which the rate falls
        "final_fraction": 0.1,  # of the peak learning rate, at the last step
      },
      "parallel": {
        "strategy": "auto",  # pmap with several local devices, else one device; or mesh
        "axes": {"data": 1, "fsdp": 1, "tensor": 1},  # mesh: sizes; -1 once: what is left
      },
      "checkpoint": {"every": 100, "keep": 2, "keep_best": 1},  # every = 0: never
      "eval": {"every": 0, "batches": 0},  # every = 0: at the end only; batches = 0: all
      "early_stopping": {
        "metric": "",  # of the validation rows, such as loss or accuracy; "": never
        "patience": 3,  # evaluations in a row that bring nothing better
      },
      "log": {"every": 10},
    }
  )


def comparison(**chosen) -> ConfigDict:
  """The config of a comparison: `base()` without a model, and `compare`, with what was chosen.

  `optimizer` holds the default setting, which is reported beside the best one of the grid.
  """
  config = base()
  del config.model, config.init_from  # each architecture has its own
  defaults = {
    "architectures": (),  # names of experiments or of variants
    "tasks": (),  # the same; (): the data and objective of this config
    "variants": {},  # {name: {"experiment", "title", "changes"}}, see `analysis/entrants`
    "model": {},  # what every model takes, whatever its own config says
    "match": "parameters",  # flops_per_token, state_bytes, seconds, or "": widths as they are
    "parameters": 1_050_000,  # the width of each is solved for
    "flops_per_token": 0.0,  # of training
    "state_bytes": 0,  # of a document of seq_len tokens
    "seconds": 0.0,  # of training; the steps are solved for, and the width by the parameters
    "tolerance": 0.05,
    "learning_rates": (2e-3, 4e-3, 8e-3),
    "weight_decays": (),  # (): the optimizer's own
    "tuning_steps": 30,
    "seeds": 3,
    "contexts": (128, 512, 2048, 8192),  # where prefill and decoding are timed
    "workers": 0,  # processes at once; 0: one a core, or one on accelerators
    "prompt": "The function returns",
  }
  config.compare = ConfigDict({**defaults, **chosen})
  return config


def with_mode(config: ConfigDict, mode: str, sizes: Collection[str] = ()) -> ConfigDict:
  """The config of `--config=experiments/x.py:mode`: "" or a published size as it stands, or "tiny".

  The tiny mode trains a model of width 32 for two steps in seconds: what a test runs.

  Args:
    config: what the experiment made of the mode.
    mode: as given.
    sizes: names of the experiment's published sizes, which it has put into the config itself.
  """
  if mode == "" or mode in sizes:
    return config
  if mode != "tiny":
    raise unknown("mode of an experiment", mode, ("tiny", *sizes))
  config.steps, config.batch_size, config.seq_len = 2, 8, 16
  if "model" in config:  # a comparison has none of its own
    config.model.d_model, config.model.repeats = 32, 1
  config.tokenizer.name = "byte"
  config.eval.batches, config.checkpoint.every, config.log.every = 2, 2, 1
  return config


def load(argument: str, overrides: list[str], model: str | None = None) -> ConfigDict:
  """The config of a file with overrides.

  Args:
    argument: "path.py" or "path.py:mode".
    overrides: "--config.a.b=value" each; the value takes the type of what stands there.
    model: another file, of which `model` is taken, all but what belongs to the job: the heads and
      the sizes of vocabulary and classes.

  Raises:
    UserError: no such file, one without a model, an unknown key (the nearest is named), or a value
      of another type.
  """
  config = _made(argument)
  if model is not None:
    own, other = _model(config, argument), _model(_made(model), model)
    config.model = ConfigDict({**other.to_dict(), **{name: own[name] for name in _OF_THE_JOB}})
  for override in overrides:
    check_key(config, override.split("=", 1)[0].removeprefix("--config."))
  values = flags.FlagValues()
  argv, sys.argv = sys.argv, ["launch.py", *overrides]  # config_flags looks there for overrides
  try:
    config_flags.DEFINE_config_dict("config", config, flag_values=values)
    values(sys.argv)
  except (flags.Error, TypeError, ValueError) as error:
    raise UserError(str(error).removeprefix("flag ")) from error
  finally:
    sys.argv = argv
  return values.config


def sweep_of(argument: str):
  """What the `sweep()` of an experiment gives, see `llm_jax.sweeps.space`; None if it has none."""
  module = _execute(Path(argument.partition(":")[0]))
  return module.sweep() if hasattr(module, "sweep") else None


def with_values(config: ConfigDict, values: dict) -> ConfigDict:
  """A copy with other values; each takes the type of what stands there.

  Args:
    values: {"a.b": value}.

  Raises:
    UserError: an unknown key (the nearest is named), or a value of another type.
  """
  changed = config.copy_and_resolve_references()
  for key, value in values.items():
    check_key(changed, key)
    *parents, last = key.split(".")
    at = changed
    for parent in parents:
      at = at[parent]
    if isinstance(at[last], ConfigDict):
      raise UserError(f"{key} holds {', '.join(map(repr, at[last].keys()))}; set one of these.")
    try:
      at[last] = value
    except (TypeError, ValueError) as error:
      kind = type(at[last]).__name__
      raise UserError(f"Expected a value of type {kind} for {key}, found {value!r}.") from error
  return changed


def _made(argument: str) -> ConfigDict:
  """What a file's get_config makes of the mode behind its path."""
  path, _, mode = argument.partition(":")
  if not Path(path).is_file():
    raise unknown("config file", path, [str(p) for p in Path(path).parent.glob("*.py")])
  return _execute(Path(path)).get_config(mode)


def _model(config: ConfigDict, argument: str) -> ConfigDict:
  if not config.get("model"):
    raise UserError(
      f"{argument} has no model of its own; --model puts one experiment's model in the place of "
      "another's. Expected experiments that train one model, not comparisons."
    )
  return config.model


def _execute(path):
  """The module of a config file, run afresh."""
  if path.suffix != ".py":
    raise UserError(f"{path} is no experiment: expected a Python file with get_config(mode='').")
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except UserError:
    raise
  except Exception as error:
    raise UserError(f"{path} cannot be run: {type(error).__name__}: {error}.") from error
  if not hasattr(module, "get_config"):
    raise UserError(f"{path} is no experiment: it has no function get_config(mode='').")
  return module


def check_key(config, key):
  """Refuses a key such as "optimizer.learning_rate" that the config does not have, naming its
  siblings."""
  at, parts = config, key.split(".")
  for depth, part in enumerate(parts):
    if not isinstance(at, ConfigDict) or part not in at:
      siblings = at.keys() if isinstance(at, ConfigDict) else []
      prefix = "".join(f"{p}." for p in parts[:depth])
      raise unknown("config key", prefix + part, [prefix + sibling for sibling in siblings])
    at = at[part]
