"""From a config to a model, and from a model to its parameters and their logical axes."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.errors import unknown
from llm_jax.models.decoder import Decoder
from llm_jax.models.encoder import Encoder
from llm_jax.models.encoder_decoder import EncoderDecoder
from llm_jax.models.spec import layer_class, parse
from llm_jax.models.word_vectors import WordVectors

_MODELS = {
  "decoder": Decoder,
  "encoder": Encoder,
  "encoder_decoder": EncoderDecoder,
  "word_vectors": WordVectors,
}


def build(model_config, dtype: str = "float32") -> nn.Module:
  """The model of a config's `model` part.

  Args:
    model_config: a ConfigDict or dict with the fields of `Spec`.
    dtype: compute type, "float32" or "bfloat16".

  Raises:
    UserError: an unknown option or layer, or sizes that do not fit each other.
  """
  if dtype not in ("float32", "bfloat16"):
    raise unknown("dtype", dtype, ("float32", "bfloat16"))
  spec = parse(model_config)
  return _MODELS[spec.kind](spec, dtype)


def init_params(model: nn.Module, key):
  """Freshly drawn parameters, plain float32 arrays."""
  return nn.unbox(model.init(key, *_example(model)))["params"]


def abstract_params(model: nn.Module):
  """Shapes and types of the parameters; nothing is allocated."""
  return jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))


def param_axes(model: nn.Module):
  """The logical axis names of each parameter: a tree like the parameters', with tuples for leaves.

  Names: embed, heads, kv, mlp, expert, vocab, state, layers; None where nothing is ever split.
  """
  boxed = jax.eval_shape(model.init, jax.random.key(0), *_example(model))["params"]
  is_box = lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
  return jax.tree.map(
    lambda leaf: tuple(leaf.names) if is_box(leaf) else (None,) * leaf.ndim, boxed, is_leaf=is_box
  )


def undecayed(model: nn.Module) -> tuple[str, ...]:
  """Regexes of the parameter paths that take no weight decay: norms, biases, and what each layer
  names in its class attribute `no_decay`."""
  patterns = [r".*/(bias|scale|position_bias)"]
  for name, fields in model.spec.layers.items():
    own = getattr(layer_class(fields.get("type", name)), "no_decay", ())
    patterns += [rf".*/\d+_{name}/(.*/)?{parameter}" for parameter in own]
  return tuple(patterns)


def _example(model):
  tokens = jnp.zeros((1, 2), jnp.int32)
  others = {"encoder_decoder": (tokens,), "word_vectors": (tokens[..., None],)}
  return (tokens, *others.get(model.spec.kind, ()))
