"""What a run starts from: the parameters of `config.init_from`, and what else it takes over.

A model is its body, the embeddings and the stacks, and its heads. The body has to be the source's.
Of the heads those of both models are taken, others of the new model begin fresh, and others of the
source are left out; a head of classes is of both only if these are the same labels.
"""

import logging
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from llm_jax import objective
from llm_jax.data import tokenizers
from llm_jax.data.tokenizers import Tokenizer
from llm_jax.errors import UserError
from llm_jax.models import build
from llm_jax.training import checkpoints, inputs, parameters, workdir

_log = logging.getLogger(__name__)

_BODY = ("embed", "source_embed", "encoder", "stack")
_OF_CLASSES = ("classification", "token_classification")
# What of `config.model` belongs to the job: none of it changes a parameter of the body.
_OF_THE_JOB = ("heads", "num_classes", "pooling", "dropout_rate", "remat", "embedding")


def resolve(config: ConfigDict, folder: Path) -> ConfigDict:
  """The config with the source's model and tokenizer, if `config.model_from_source` asks for them.

  A run that goes on takes them from its own folder: it has no more use for the source.

  Raises:
    UserError: there is no such run, or its model is of another kind.
  """
  if not (config.init_from and config.model_from_source):
    return config
  goes_on = (folder / "config.json").exists()
  source = folder if goes_on else _run_folder(config.init_from)
  theirs = workdir.read_config(source)
  kinds = theirs.get("model", ConfigDict()).get("kind"), config.model.kind
  if kinds[0] != kinds[1]:
    raise UserError(
      f"{source} holds {f'a model of kind {kinds[0]!r}' if kinds[0] else 'no model'}, but this "
      f"experiment is for an {kinds[1]!r}. Give another init_from or another experiment."
    )
  config = config.copy_and_resolve_references()
  model = {name: value for name, value in theirs.model.items() if name not in _OF_THE_JOB}
  file = source / inputs.TOKENIZER
  if goes_on:
    config.tokenizer = theirs.tokenizer
  elif file.exists():
    config.tokenizer.name = str(file)
    special = objective.make(config).SPECIAL_TOKENS
    asked = tokenizers.load(file).extended(special).vocab_size
    if model["vocab_size"]:  # published tables may have more rows than there are tokens
      model["vocab_size"] = max(model["vocab_size"], asked)
  config.model = ConfigDict({**config.model.to_dict(), **ConfigDict(model).to_dict()})
  return config


def read(config: ConfigDict, model: nn.Module, tokenizer: Tokenizer, labels=()) -> dict:
  """{path: array} of the parameters that a run takes from `config.init_from`.

  Tables that have grown, for special tokens that the source lacked, come with the source's rows.

  Args:
    config: the whole config; init_from is a run folder or a checkpoint of one.
    model, tokenizer, labels: the new run's.

  Raises:
    UserError: no such checkpoint, another tokenizer, or a body that is not the model's.
  """
  source = Path(config.init_from)
  params, identity = checkpoints.load(source)
  _check_tokenizer(config, identity, tokenizer)
  found = parameters.flat(params)
  expected = parameters.flat(build.abstract_params(model))
  axes = parameters.flat(build.param_axes(model))
  if _labels(source) != tuple(labels):
    found = {path: x for path, x in found.items() if _top(path) not in _OF_CLASSES}
  both = set(_BODY) | (set(map(_top, found)) & set(map(_top, expected)))
  shared = lambda leaves: {path: x for path, x in leaves.items() if _top(path) in both}
  taken, wanted = shared(found), shared(expected)
  grown = [
    path
    for path, x in taken.items()
    if path in wanted and _has_grown(x.shape, wanted[path].shape, axes[path])
  ]
  wanted |= {path: taken[path] for path in grown}
  checkpoints.check_shapes(parameters.nested(taken), parameters.nested(wanted), source)
  _tell(source, taken, parameters.flat(params), expected, grown)
  return {path: np.asarray(x, np.float32) for path, x in taken.items()}


def put(taken: dict, fresh: dict) -> dict:
  """Fresh parameters with those of `read` in their places."""
  leaves = parameters.flat(fresh)
  for path, array in taken.items():
    if array.shape != leaves[path].shape:
      start = (jnp.int32(0),) * array.ndim
      array = jax.jit(jax.lax.dynamic_update_slice)(leaves[path], array, start)
    leaves[path] = array
  return parameters.nested(leaves)


def _run_folder(path: str) -> Path:
  """Of a run folder, or of a checkpoint in one."""
  path = Path(path).absolute()
  return path.parent.parent if path.parent.name == "checkpoints" else path


def _top(path: str) -> str:
  return path.partition("/")[0]


def _labels(source: Path) -> tuple:
  file = _run_folder(source) / inputs.LABELS
  return tuple(workdir.read_json(file)) if file.exists() else ()


def _has_grown(old: tuple, new: tuple, axes: tuple) -> bool:
  """Whether only the vocabulary is larger."""
  pairs = list(zip(old, new, axes, strict=True)) if len(old) == len(new) else []
  changed = [(before, after, axis) for before, after, axis in pairs if before != after]
  return bool(changed) and all(a == "vocab" and before < after for before, after, a in changed)


def _check_tokenizer(config: ConfigDict, identity: dict, tokenizer: Tokenizer) -> None:
  """The run's tokenizer must be the source's, but for special tokens added to it."""
  before = identity.get("tokenizer", "")
  if before in (None, tokenizer.sha256):  # None: imported without one
    return
  file = _run_folder(config.init_from) / inputs.TOKENIZER
  if file.exists():
    theirs = tokenizers.load(file)
    special = objective.make(config).SPECIAL_TOKENS
    if theirs.sha256 == before and theirs.extended(special).sha256 == tokenizer.sha256:
      return
  raise UserError(
    f"init_from={config.init_from} was trained with another tokenizer than this run's: its "
    f"embeddings mean other pieces. Set --config.tokenizer.name={file}, or "
    "--config.model_from_source=True, which takes the model's hyperparameters over too."
  )


def _tell(source, taken, found, expected, grown) -> None:
  tops = lambda paths: ", ".join(sorted({_top(path) for path in paths})) or "nothing"
  _log.info(
    "init_from %s: taken: %s (%d arrays); fresh: %s; left out: %s",
    *(source, tops(taken), len(taken)),
    *(tops(set(expected) - set(taken)), tops(set(found) - set(taken))),
  )
  for path in grown:
    _log.info(
      "%s has grown from %s to %s: the new rows are fresh",
      *(path, tuple(found[path].shape), tuple(expected[path].shape)),
    )
