"""Which published family a checkpoint, or a model, belongs to."""

import dataclasses
import importlib
import pkgutil
from types import ModuleType

from flax.core import freeze

import llm_jax.interop
from llm_jax.errors import UserError, unknown
from llm_jax.interop.fields import Fields
from llm_jax.interop.weights import stages_of
from llm_jax.layers.mlp import feed_forward_width
from llm_jax.models.spec import Spec, branches, parse
from llm_jax.ops.activations import activation

# What does not change what a trained model computes: of training, or of speed.
_FREE = ("dropout_rate", "remat")
_FREE_OF_LAYERS = (
  "implementation",
  "dropout_rate",
  "dropless",
  "capacity_factor",
  "balance_weight",
  "z_weight",
)


def modules() -> dict[str, ModuleType]:
  """Every family by the name of its file: the modules here that have MODEL_TYPES."""
  names = sorted(m.name for m in pkgutil.iter_modules(llm_jax.interop.__path__))
  found = {name: importlib.import_module(f"llm_jax.interop.{name}") for name in names}
  return {name: module for name, module in found.items() if hasattr(module, "MODEL_TYPES")}


def of_config(config: dict) -> ModuleType:
  """The family of a config.json.

  Raises:
    UserError: its model_type is missing or not known.
  """
  types = {kind: module for module in modules().values() for kind in module.MODEL_TYPES}
  kind = config.get("model_type")
  if kind is None:
    raise UserError(f"config.json has no model_type. Known: {', '.join(sorted(types))}.")
  if not isinstance(kind, str) or kind not in types:
    raise unknown("model_type", kind, types)
  return types[kind]


def recognise(shapes: dict[str, tuple[int, ...]]) -> dict | None:
  """What stands for the config.json of a file that has none, from its tensors' names and shapes;
  None if no family knows them."""
  for module in modules().values():
    config = module.recognise(shapes) if hasattr(module, "recognise") else None
    if config is not None:
      return config
  return None


def of_spec(spec: Spec, alone: bool = False) -> tuple[ModuleType, dict]:
  """The family whose files hold such a model, and its config.json: the first, by the name of its
  file, whose config is read back as the same model.

  Args:
    spec: of the model.
    alone: whether the weights file must do without a config.json.

  Raises:
    UserError: none; names the nearest and what it would read back otherwise.
  """
  spec, nearest = resolved(spec), None
  for name, module in modules().items():
    published = module.published_config(spec)
    if published is None or (alone and not hasattr(module, "recognise")):
      continue
    try:
      names = [name for row in module.weights(spec) for _, name in row.places() if name]
      back = resolved(parse(module.model_config(Fields(published, tensors=names))))
      module.weights(back)
    except UserError:
      continue
    different = _differences(spec, back)
    if not different:
      return module, published
    if nearest is None or len(different) < len(nearest[1]):
      nearest = name, different
  if nearest is None:
    means = " in one file, without a config.json" if alone else ""
    raise UserError(
      f"No published format holds such a model{means}: its layers are of no known family."
    )
  name, different = nearest
  listed = "; ".join(f"{key} {here!r} (there {there!r})" for key, here, there in different[:5])
  more = f" and {len(different) - 5} more" if len(different) > 5 else ""
  raise UserError(
    f"No published format holds this model. The nearest is {name}, which differs in {listed}{more}."
  )


def resolved(spec: Spec) -> Spec:
  """The spec with the sizes that 0 stands for written out, which families may rely on."""
  pattern, repeats = spec.pattern, spec.repeats
  if len(spec.stages) == 1:
    [(pattern, repeats)] = spec.stages
  layers = {name: freeze(_resolved_layer(dict(f), spec.d_model)) for name, f in spec.layers.items()}
  return dataclasses.replace(
    spec,
    pattern=pattern,
    repeats=repeats,
    stages=spec.stages if len(spec.stages) > 1 else (),
    layers=freeze(layers),
  )


def _resolved_layer(fields, d_model):
  if "num_kv_heads" in fields:
    fields["num_kv_heads"] = fields["num_kv_heads"] or fields["num_heads"]
  if "head_dim" in fields and "num_heads" in fields:
    fields["head_dim"] = fields["head_dim"] or d_model // fields["num_heads"]
  if "query_scale" in fields:
    fields["query_scale"] = fields["query_scale"] or fields["head_dim"] ** -0.5
  if "hidden_size" in fields:
    fields["hidden_size"] = fields["hidden_size"] or d_model
  if "dt_rank" in fields:
    fields["dt_rank"] = fields["dt_rank"] or -(-d_model // 16)
  if "d_ff" in fields and "activation" in fields:
    _, gated = activation(fields["activation"])
    fields["d_ff"] = fields["d_ff"] or feed_forward_width(d_model, gated)
  return fields


def _differences(here: Spec, there: Spec) -> list[tuple]:
  """(option, value here, value there) of all that would change the mathematics."""
  here, there = _meaning(here), _meaning(there)
  none = "nothing"
  return [
    (key, here.get(key, none), there.get(key, none))
    for key in dict.fromkeys([*here, *there])
    if here.get(key, none) != there.get(key, none)
  ]


def _meaning(spec: Spec) -> dict:
  """The options that matter to this model, flat."""
  values = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
  stages = ("pattern", "repeats", "stages", "encoder_pattern", "encoder_repeats")
  for name in (*_FREE, *stages, "layers"):
    del values[name]
  # Which layers share a scan is a matter of speed.
  used = spec.decoder_stages
  values |= stages_of((entry,) for pattern, repeats in used for entry in pattern * repeats)
  if spec.kind == "encoder_decoder":
    values["encoder_stages"], used = spec.encoder_stages, used + spec.encoder_stages
  else:
    del values["decoder_start_id"]
  if spec.positions != "learned":
    del values["max_length"], values["position_offset"]
  if spec.positions != "relative":
    del values["position_buckets"], values["position_max_distance"]
  for name in dict.fromkeys(name for pattern, _ in used for name in branches(pattern)):
    for option, value in _layer_meaning(spec.layers[name]).items():
      values[f"layers.{name}.{option}"] = value
  return values


def _layer_meaning(fields):
  left_out = set(_FREE_OF_LAYERS)
  if fields.get("positions", "rope") != "rope":
    left_out |= {"rope_base", "rope_fraction", "rope_scaling"}
  if not fields.get("qk_norm", True):
    left_out.add("norm_epsilon")
  return {option: value for option, value in fields.items() if option not in left_out}
