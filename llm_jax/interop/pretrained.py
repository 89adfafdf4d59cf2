"""Published checkpoints in and out: `load_pretrained` and `save_pretrained`."""

import os
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from llm_jax.errors import UserError, unknown
from llm_jax.interop import families, files, tables
from llm_jax.interop.fields import Fields
from llm_jax.models import build

_PARAM_DTYPES = ("float32", "bfloat16", "float16")


def load_pretrained(
  path: str | os.PathLike,
  *,
  dtype: str = "float32",
  param_dtype: str | None = None,
  mesh: Mesh | None = None,
) -> tuple[nn.Module, dict]:
  """A published checkpoint as a model of this tree; the architecture comes from the file.

  Args:
    path: a folder with config.json and model.safetensors (or the index of several files); or a
      file, or a folder with that file alone, whose tensors' names say what it is.
    dtype: compute type of the model, "float32" or "bfloat16".
    param_dtype: of the parameters, "float32", "bfloat16" or "float16"; None: as in the file.
    mesh: where the parameters go, split by the rules of `models/partition`, each device reading
      its own part; None: the default device.

  Returns:
    the model, and its parameters for `model.apply({"params": params}, tokens)`.

  Raises:
    UserError: naming the tensor, the file or the field of config.json that is at fault.
  """
  if param_dtype is not None and param_dtype not in _PARAM_DTYPES:
    raise unknown("param_dtype", param_dtype, _PARAM_DTYPES)
  checkpoint = files.open_checkpoint(path)
  family, config = _family(checkpoint)
  model, spec, table, needed = _built(family, config, checkpoint, dtype)
  tensors = tables.check_tensors(checkpoint.tensors, family, spec, needed, checkpoint.path)
  param_dtype = param_dtype and jnp.dtype(param_dtype)
  return model, unflatten_dict(
    table.fill(tensors, param_dtype, mesh, _flat(build.param_axes(model))), sep="/"
  )


def save_pretrained(folder: str | os.PathLike, model: nn.Module, params: dict) -> None:
  """Writes a model as the published checkpoint that transformers opens.

  Args:
    folder: made if it is not there; the files of an earlier save are replaced. A path that ends in
      ".safetensors" is one file, in a format whose names alone say what it is: RWKV's own.
    model: one that a published family describes exactly, options of training and speed aside.
    params: its parameters, in the types in which they are to be stored.

  Raises:
    UserError: no published family has such a model, or the disk refuses.
  """
  path = Path(folder).expanduser()
  alone = path.suffix == ".safetensors"
  path = path if alone else path / files.SINGLE
  family, config = families.of_spec(model.spec, alone)
  bare = hasattr(family, "recognise")  # a format without config.json: its names say what it is
  _check_neighbour(path, alone, bare)
  spec, expected = families.resolved(model.spec), _flat(build.abstract_params(model))
  params = _flat(params)
  tables.check_params(params, expected)
  table = tables.Table(family.weights(spec), expected)
  constants = family.constants(spec) if hasattr(family, "constants") else {}
  dtypes = table.dtypes(params)
  shapes = {name: (shape, dtypes[name]) for name, shape in table.shapes().items()}
  shapes |= {name: (array.shape, array.dtype) for name, array in constants.items()}

  def arrays():
    yield from table.tensors(params)
    yield from constants.values()

  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"Could not make the folder {path.parent}: {error.strerror}.") from None
  files.write_safetensors(path, shapes, arrays())
  if bare and not alone:
    path.with_name(files.CONFIG).unlink(missing_ok=True)  # of an earlier save
  elif not bare:
    stored = {dtype.name for dtype in dtypes.values()}
    kept = {"dtype": stored.pop()} if len(stored) == 1 else {}
    files.write_json(path.with_name(files.CONFIG), {**config, **kept})


def _check_neighbour(path, alone, bare):
  """Refuses to replace, or to be read together with, a config.json of something else."""
  config = path.with_name(files.CONFIG)
  if not config.exists() or (alone and path.name != files.SINGLE):
    return  # a file of another name is read without it
  if alone:
    raise UserError(
      f"{config} would be taken for that of {path.name}. Give the file another name or folder."
    )
  if "model_type" not in files.read_json(config):
    fate = "be removed" if bare else "be replaced"
    raise UserError(
      f"{config} would {fate}, but it has no model_type: it is of no published checkpoint. "
      "Choose another folder."
    )


def _family(checkpoint):
  """The family of a checkpoint, and its config.json or what stands for it."""
  config = checkpoint.config
  if config is None:
    try:
      config = families.recognise({name: t.shape for name, t in checkpoint.tensors.items()})
    except UserError as error:
      raise UserError(f"{checkpoint.path}: {error}") from None
  if config is None:
    raise UserError(
      f"{checkpoint.path} has no config.json, and its tensors' names are of no format that does "
      "without."
    )
  return families.of_config(config), config


def _built(family, config, checkpoint, dtype):
  """The model, its spec, its table and the tensors that needs. Every field of the file is accounted
  for, and none that makes no sense comes through as anything but the user's error."""
  named = checkpoint.config is not None
  fields = Fields(config, files.CONFIG if named else str(checkpoint.path), checkpoint.tensors)
  try:
    found = family.model_config(fields)
    fields.finish()
    model = build.build(found, dtype)
    spec = families.resolved(model.spec)
    table = tables.Table(family.weights(spec), _flat(build.abstract_params(model)))
    return model, spec, table, table.shapes()
  except UserError:
    raise
  except Exception as error:  # whatever shapes that do not fit meet, in whichever library
    reason = str(error).partition("\n")[0] or type(error).__name__
    source = f"{files.CONFIG} of {checkpoint.path}" if named else checkpoint.path
    raise UserError(f"{source} makes no sense as {config['model_type']!r}: {reason}.") from error


def _flat(tree) -> dict:
  """{"a/b": leaf}."""
  return flatten_dict(tree, sep="/")
