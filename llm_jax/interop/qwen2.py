"""Qwen2 and 2.5: Llama with biases of queries, keys and values, and windows in some layers."""

from llm_jax.errors import UserError, unknown
from llm_jax.interop import llama
from llm_jax.interop.weights import stages_of
from llm_jax.models import spec as specs

MODEL_TYPES = ("qwen2",)
IGNORED, aliases, rename, weights = llama.IGNORED, llama.aliases, llama.rename, llama.weights

FULL, SLIDING = "full_attention", "sliding_attention"


def model_config(fields):
  """The model of a config.json."""
  fields.require("use_mrope", False)
  attention = llama.attention(fields, groups=32, use_bias=True, out_bias=False)
  return windowed_model(fields, attention)


def published_config(spec):
  """The config.json of a model."""
  config = llama.published(spec, "Qwen2ForCausalLM", "mlp")
  return config and {**config, "model_type": "qwen2", **published_windows(spec)}


# ------------------------------------------------------------------ what Qwen3 takes over as well


def windowed_model(fields, attention):
  """The model whose layers see either everything before them or a window ("local")."""
  stream, types = llama.stream(fields), _layer_types(fields)
  window = fields.take("sliding_window", 4096, null=0)
  layers = {"attention": attention, "mlp": llama.mlp(fields, use_bias=False)}
  if len(set(types)) == 1:
    layers["attention"] = {**attention, "window": window if SLIDING in types else 0}
    return specs.model_config(**stream, layers=layers)
  names = {FULL: "attention", SLIDING: "local"}
  return specs.model_config(
    **{**stream, **stages_of((names[kind], "mlp") for kind in types)},
    layers={**layers, "local": {"type": "attention", "window": window}},
  )


def _layer_types(fields):
  """What each layer sees: listed, or a window from one layer on, if windows are in use at all."""
  count, used = fields.take("num_hidden_layers"), fields.take("use_sliding_window", False)
  if not (used and fields.take("sliding_window", 4096, null=0)):
    fields.ignore("max_window_layers")
    fields.require("layer_types", [FULL] * count)
    return [FULL] * count
  first = fields.take("max_window_layers", 28, least=0)
  types = fields.take("layer_types", [SLIDING if i >= first else FULL for i in range(count)])
  for kind in types:
    if kind not in (FULL, SLIDING):
      raise unknown("layer_type", kind, (FULL, SLIDING))
  if len(types) != count:
    raise UserError(f"config.json lists {len(types)} layer_types for {count} layers.")
  return types


def published_windows(spec):
  """The fields that say which layers see a window."""
  types, windows = [], set()
  for pattern, repeats in spec.decoder_stages:
    for _ in range(repeats):
      for name in pattern[::2]:
        window = spec.layers.get(name, {}).get("window", 0)
        types.append(SLIDING if window else FULL)
        windows |= {window} - {0}
  if not windows:
    return {"use_sliding_window": False, "sliding_window": None}
  return {
    "use_sliding_window": True,
    "sliding_window": max(windows),
    "max_window_layers": types.index(SLIDING),
    "layer_types": types,
  }
