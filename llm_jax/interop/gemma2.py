"""Gemma 2: the names, shapes and config of its published checkpoints.

Source: Gemma Team 2024, arXiv:2408.00118, and transformers' `gemma2`. Beside Gemma: every second
layer has a window, scores and logits are capped, and a norm follows each layer too.
"""

from llm_jax.errors import UserError, unknown
from llm_jax.interop import gemma, llama
from llm_jax.interop.weights import entries, norm_weights, stages_of
from llm_jax.models import spec as specs

MODEL_TYPES = ("gemma2",)
IGNORED, aliases, rename = llama.IGNORED, llama.aliases, llama.rename
_NAMES = {"sliding_attention": "local", "full_attention": "attention"}
_NORMS = (
  ("input_layernorm", "post_attention_layernorm"),
  ("pre_feedforward_layernorm", "post_feedforward_layernorm"),
)


def model_config(fields):
  """The model of a config.json."""
  fields.ignore("hidden_act", "sliding_window_size")  # older names of fields read below
  attention = gemma.attention(fields) | {
    "query_scale": fields.take("query_pre_attn_scalar", 256.0) ** -0.5,
    "soft_cap": float(fields.take("attn_logit_softcapping", 50.0, null=0.0)),
  }
  mlp = gemma.mlp(fields, fields.take("hidden_activation", "gelu_pytorch_tanh"))
  names = _layer_names(fields)
  layers = {"attention": attention, "mlp": mlp}
  window = fields.take("sliding_window", 4096, null=0)
  if "local" in names:
    if not window:
      raise UserError("config.json has layers of sliding_attention, but no sliding_window.")
    layers["local"] = {"type": "attention", "window": window}
  return specs.model_config(
    **{**gemma.stream(fields), **stages_of((name, "mlp") for name in names)},
    norm_placement="sandwich",
    logit_soft_cap=float(fields.take("final_logit_softcapping", 30.0, null=0.0)),
    layers=layers,
  )


def _layer_names(fields) -> list[str]:
  """Our name of each layer's attention; by default windows alternate with full attention."""
  kinds = fields.take("layer_types", None, kind=list)
  depth = fields.take("num_hidden_layers")
  if kinds is None:
    kinds = [("sliding_attention", "full_attention")[i % 2] for i in range(depth)]
  if len(kinds) != depth:
    raise UserError(f"config.json has {len(kinds)} layer_types, but num_hidden_layers={depth}.")
  for kind in kinds:
    if kind not in _NAMES:
      raise unknown("layer type in config.json", kind, _NAMES)
  return [_NAMES[kind] for kind in kinds]


def published_config(spec):
  """The config.json of a model."""
  config = gemma.published(spec, "Gemma2ForCausalLM")
  kinds = {ours: there for there, ours in _NAMES.items()}
  names = [name for pattern, repeats in spec.decoder_stages for name in pattern[::2] * repeats]
  if config is None or not set(names) <= set(kinds):
    return None
  attention = spec.layers["attention"]
  return {
    **config,
    "model_type": "gemma2",
    "hidden_activation": config["hidden_act"],
    "query_pre_attn_scalar": round(attention["query_scale"] ** -2),
    "attn_logit_softcapping": attention["soft_cap"] or None,
    "final_logit_softcapping": spec.logit_soft_cap or None,
    "layer_types": [kinds[name] for name in names],
    "sliding_window": spec.layers["local"]["window"] if "local" in spec.layers else None,
  }


def weights(spec):
  """The table."""
  rows = llama.stream_weights(spec)
  for entry in entries(spec.decoder_stages, per_layer=2):
    layer, (before, after) = "model.layers.{}.", _NORMS[entry.slot]
    rows += norm_weights(entry.norm, layer + before, entry.numbers)
    rows += norm_weights(entry.post_norm, layer + after, entry.numbers)
    if entry.slot == 0:
      rows += llama.attention_weights(entry, layer + "self_attn", spec.layers[entry.name])
    else:
      rows += llama.mlp_weights(entry, layer + "mlp", spec.layers[entry.name])
  return rows
