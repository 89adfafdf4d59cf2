"""A model's hyperparameters, checked: the `model` part of a config and its frozen twin."""

import dataclasses
import importlib
import pkgutil
from typing import Any

from flax.core import FrozenDict, freeze
from ml_collections import ConfigDict

import llm_jax.layers
from llm_jax.errors import UserError, unknown
from llm_jax.modules import NORMS

KINDS = ("decoder", "encoder", "encoder_decoder", "word_vectors")
_CHOICES = {
  "kind": KINDS,
  "positions": ("none", "learned", "sinusoidal", "sinusoidal_halves", "relative"),
  "embedding_scale_dtype": ("float32", "bfloat16"),
  "norm": NORMS,
  "norm_placement": ("pre", "post", "sandwich"),
  "remat": ("none", "full", "dots"),
  "pooling": ("pooler", "first", "last", "mean"),
}
HEADS = (
  "language_model",
  "masked_lm",
  "next_sentence",
  "pooler",
  "classification",
  "token_classification",
  "span",
  "embedding",
  "reconstruction",
  "context",
)
_OF_CLASSES = {"classification", "token_classification"}
_EMBEDDING = {"init_from": ""}


@dataclasses.dataclass(frozen=True)
class Spec:
  """What `llm_jax.build` makes a model from.

  Attributes:
    kind: decoder, encoder, encoder_decoder or word_vectors, which has no layers.
    vocab_size: 0 in an experiment's config: the tokenizer's.
    d_model: width of the residual stream.
    pattern: layer names; a nested tuple is a group of parallel branches.
    repeats: how often the pattern is repeated.
    stages: ((pattern, repeats), ...) instead of the two, for depths that are no multiple.
    encoder_pattern, encoder_repeats: the encoder of an encoder-decoder.
    layers: hyperparameters of each layer name in the patterns; an entry with "type" is a variant.
    positions: none, learned, sinusoidal, sinusoidal_halves (added to the embeddings) or relative (a
      table of the stack).
    max_length: how many learned positions there are, and a record of what a model was trained on.
    position_offset: rows of the learned positions before that of position 0.
    position_buckets, position_max_distance: rows of the relative table, and where its last begins.
    token_types: rows of a table added to the embeddings by `token_types`; 0 is none.
    norm, norm_epsilon: layernorm, rmsnorm or rmsnorm_plus_one.
    norm_placement: pre, post or sandwich (before and after each layer).
    group_norm: one norm for a group of parallel branches; False: one a branch.
    final_norm: a norm after the stack.
    embedding_norm: a norm after the embedding.
    embedding_scale: multiply embeddings by sqrt(d_model).
    embedding_scale_dtype: type that this factor is rounded to, float32 or bfloat16.
    heads: language_model, masked_lm, next_sentence, pooler, classification, token_classification,
      span, embedding, reconstruction (see `models/heads`), the first of which makes
      `Output.logits`; context, the only one of word_vectors.
    num_classes: of classification and token_classification; 0 in an experiment's config: as many
      as the training data has labels.
    pooling: what of a row classification and embedding read: its first real token, its last, the
      mean of all, or the pooler (a projection and tanh of the first).
    tie_embeddings: the vocabulary head's matrix is the embedding table.
    head_bias: the vocabulary head adds a bias.
    logit_scale: factor of the logits.
    logit_soft_cap: logits become cap * tanh(logit / cap); 0 is none.
    decoder_start_id: with what the target of an encoder-decoder begins.
    dropout_rate: of embeddings and of each layer's output.
    remat: what the backward pass recomputes: none, full (each block) or dots (all but products).
  """

  kind: str = "decoder"
  vocab_size: int = 0
  d_model: int = 128
  pattern: tuple = ("attention", "mlp")
  repeats: int = 2
  stages: tuple = ()
  encoder_pattern: tuple = ("attention", "mlp")
  encoder_repeats: int = 2
  layers: FrozenDict = dataclasses.field(default_factory=FrozenDict)
  positions: str = "none"
  max_length: int = 0
  position_offset: int = 0
  position_buckets: int = 32
  position_max_distance: int = 128
  token_types: int = 0
  norm: str = "layernorm"
  norm_epsilon: float = 1e-5
  norm_placement: str = "pre"
  group_norm: bool = True
  final_norm: bool = True
  embedding_norm: bool = False
  embedding_scale: bool = False
  embedding_scale_dtype: str = "float32"
  heads: tuple = ("language_model",)
  num_classes: int = 0
  pooling: str = "first"
  tie_embeddings: bool = True
  head_bias: bool = False
  logit_scale: float = 1.0
  logit_soft_cap: float = 0.0
  decoder_start_id: int = 0
  dropout_rate: float = 0.0
  remat: str = "none"

  @property
  def decoder_stages(self) -> tuple:
    """((pattern, repeats), ...) of the decoder, or of the encoder where that is the whole model."""
    return self.stages or ((self.pattern, self.repeats),)

  @property
  def encoder_stages(self) -> tuple:
    """((pattern, repeats), ...) of an encoder-decoder's encoder."""
    return ((self.encoder_pattern, self.encoder_repeats),)

  def layer(self, layer: str, label: str | None = None):
    """A new instance of the layer of that name in a pattern, with its hyperparameters.

    Args:
      layer: its name in the pattern.
      label: its name in the parameters, inside the parent being called; None: an unbound layer.
    """
    fields = dict(self.layers.get(layer, {}))
    placement = {"name": label} if label else {"parent": None}
    return layer_class(fields.pop("type", layer))(**fields, **placement)


_DEFAULTS = Spec()


def layer_names() -> list[str]:
  """Every layer on disk: the files of `llm_jax/layers`."""
  return sorted(m.name for m in pkgutil.iter_modules(llm_jax.layers.__path__))


def layer_class(name: str):
  """The module a layer's file holds: the CamelCase of the file's name."""
  if name not in layer_names():
    raise unknown("layer", name, layer_names())
  module = importlib.import_module(f"llm_jax.layers.{name}")
  return getattr(module, "".join(part.capitalize() for part in name.split("_")))


def branches(pattern) -> list[str]:
  """The layer names of a pattern, those of parallel groups included, in order."""
  return [name for entry in pattern for name in ([entry] if isinstance(entry, str) else entry)]


def model_config(**chosen) -> ConfigDict:
  """The `model` part of an experiment's config: what was chosen, all else at its default.

  Every hyperparameter of every layer in the patterns is filled in, so that each can be overridden
  on the command line; and `embedding.init_from`, the run whose word vectors a new table of tokens
  starts from, which is no part of the model itself.

  A variant (`"local": {"type": "attention", "window": 128}`) starts from its type's entry.
  """
  _refuse_unknown(chosen)
  fields = {field.name: getattr(_DEFAULTS, field.name) for field in dataclasses.fields(Spec)}
  config = {**fields, **chosen}
  embedding = _EMBEDDING | config.pop("embedding", {})
  given = config.pop("layers")
  used = _all_branches(Spec(**config))
  layers = {name: _layer_config(name, given) for name in dict.fromkeys([*used, *given])}
  return ConfigDict({**config, "embedding": embedding, "layers": layers})


def _refuse_unknown(keys: dict) -> None:
  names = [field.name for field in dataclasses.fields(Spec)]
  for key in keys:
    if key not in (*names, "embedding"):
      raise unknown("model option", key, names)
  for key in keys.get("embedding", {}):
    if key not in _EMBEDDING:
      raise unknown("option of model.embedding", key, _EMBEDDING)


def _all_branches(spec: Spec) -> list[str]:
  stages = spec.decoder_stages
  if spec.kind == "encoder_decoder":
    stages = stages + spec.encoder_stages
  return [name for pattern, _ in stages for name in branches(pattern)]


def _layer_config(name: str, given: dict) -> dict:
  entry = dict(given.get(name, {}))
  kind = entry.get("type", name)
  inherited = dict(given.get(kind, {})) if kind != name else {}
  fields = layer_fields(kind)
  for key in (*entry, *inherited):
    if key not in (*fields, "type"):
      raise unknown(f"option of layer {name!r}", key, fields)
  return {**fields, **inherited, **entry}


def layer_fields(kind: str) -> dict[str, Any]:
  """The hyperparameters of a layer and their defaults."""
  return {
    field.name: field.default
    for field in dataclasses.fields(layer_class(kind))
    if field.name not in ("parent", "name")
  }


def parse(config) -> Spec:
  """The Spec of a config's `model` part, or a UserError that names what is wrong with it."""
  values = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
  _refuse_unknown(values)
  for key, choices in _CHOICES.items():
    if values.get(key, choices[0]) not in choices:
      raise unknown(f"model.{key}", values[key], choices)
  values = {key: _tuples(value) for key, value in values.items()}
  values.pop("embedding", None)
  layers = dict(values.pop("layers", {}))
  layers = {name: {k: _tuples(v) for k, v in dict(f).items()} for name, f in layers.items()}
  spec = Spec(**values)
  used = dict.fromkeys([*_all_branches(spec), *layers])  # unused ones too: a typo is refused
  spec = dataclasses.replace(
    spec, layers=freeze({name: _layer_config(name, layers) for name in used})
  )
  _check(spec)
  return spec


def _tuples(value):
  return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def _check(spec: Spec) -> None:
  """Refuses what could not run, before anything is allocated."""
  for name in ("d_model", "vocab_size"):
    if getattr(spec, name) < 1:
      raise UserError(f"model.{name} must be at least 1, found {getattr(spec, name)}.")
  for pattern, repeats in (*spec.decoder_stages, *spec.encoder_stages):
    if (not pattern and spec.kind != "word_vectors") or repeats < 1:
      raise UserError(
        f"A pattern needs at least one layer and one repeat, found {pattern} x {repeats}."
      )
  for head in spec.heads:
    if head not in HEADS:
      raise unknown("head of model.heads", head, HEADS)
  if (spec.kind == "word_vectors") != (spec.heads == ("context",)):
    raise UserError(
      f"model.heads=('context',) and model.kind='word_vectors' belong together; found {spec.heads} "
      f"with {spec.kind!r}."
    )
  if {"language_model", "masked_lm"} <= set(spec.heads):
    raise UserError("model.heads has language_model and masked_lm: a model has one of them.")
  if spec.num_classes < 1 and _OF_CLASSES & set(spec.heads):
    raise UserError(
      f"model.heads has {', '.join(_OF_CLASSES & set(spec.heads))}, which needs model.num_classes "
      f"of at least 1; found {spec.num_classes}."
    )
  if spec.positions == "learned" and spec.max_length < 1:
    raise UserError("model.positions='learned' needs model.max_length, the number of positions.")
  for name, fields in spec.layers.items():
    if fields.get("window", 0) < 0:
      raise UserError(f"model.layers.{name}.window must be 0 (no limit) or more.")
    _check_heads(spec, name, fields)
  heads = {fields["num_heads"] for fields in spec.layers.values() if "num_heads" in fields}
  if spec.positions == "relative" and len(heads) != 1:
    raise UserError(
      "model.positions='relative' is one table of biases for all attention layers: they need one "
      f"num_heads, found {sorted(heads) or 'no layer with heads'}."
    )


def _check_heads(spec: Spec, name: str, fields) -> None:
  heads, kv_heads = fields.get("num_heads"), fields.get("num_kv_heads", 0)
  if heads is None:
    return
  if heads < 1 or kv_heads < 0:
    raise UserError(f"model.layers.{name} needs num_heads of at least 1 and num_kv_heads of 0 up.")
  if not fields.get("head_dim") and spec.d_model % heads:
    near = [n for n in range(1, spec.d_model + 1) if spec.d_model % n == 0]
    best = min(near, key=lambda n: abs(n - heads))
    raise UserError(
      f"model.d_model={spec.d_model} is not divisible by model.layers.{name}.num_heads={heads}. "
      f"The nearest number of heads that divides it is {best}; or set head_dim."
    )
  if kv_heads and heads % kv_heads:
    raise UserError(
      f"model.layers.{name}.num_heads={heads} is not divisible by its num_kv_heads={kv_heads}."
    )
  head_dim = fields.get("head_dim") or spec.d_model // heads
  turning = int(head_dim * fields.get("rope_fraction", 1.0))
  if fields.get("positions") == "rope" and turning % 2:
    raise UserError(
      f"Rotary positions need an even head size, or an even share of one (rope_fraction); layer "
      f"{name!r} would turn {turning} of {head_dim}."
    )
