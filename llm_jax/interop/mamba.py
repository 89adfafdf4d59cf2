"""Mamba: the names, shapes and config of its published checkpoints.

Layouts: v vocabulary, d model, i inner, p the two halves of a projection, k taps, r rank of the
step sizes, f the maps made of each token.

Source: Gu & Dao 2023, arXiv:2312.00752; transformers' `mamba`.
"""

from llm_jax.interop.llama import causal_heads
from llm_jax.interop.weights import entries, norm_weights, weight
from llm_jax.models import spec as specs
from llm_jax.models.spec import branches

MODEL_TYPES = ("mamba",)
AUTO = "auto"  # the published rank of step sizes that follows from the width


def model_config(fields):
  """The model of a config.json."""
  fields.ignore("time_step_scale", "use_mambapy", "use_associative_scan")
  mixer = mixer_options(fields) | {"dt_rank": rank(fields, "time_step_rank")}
  return specs.model_config(
    **stream(fields, "mamba", tied=True),
    layers={"mamba": {**mixer, "d_state": fields.take("state_size", 16)}},
  )


def published_config(spec):
  """The config.json of a model; None where it is no plain stack of this layer."""
  shared = published(spec, "mamba", "MambaForCausalLM")
  if shared is None:
    return None
  mixer = spec.layers["mamba"]
  return {**shared, "state_size": mixer["d_state"], "time_step_rank": mixer["dt_rank"] or AUTO}


def weights(spec):
  """The table."""
  rows = stream_weights(spec)
  for entry in entries(spec.decoder_stages, per_layer=1):
    rows += norm_weights(entry.norm, "backbone.layers.{}.norm", entry.numbers)
    rows += mixer_weights(entry, "backbone.layers.{}.mixer", spec.layers[entry.name])
  return rows


def aliases(spec):
  """The output matrix, where it is the embedding."""
  return {"lm_head.weight": "backbone.embeddings.weight"} if spec.tie_embeddings else {}


def rename(name):
  """A model without a head is stored without the prefix of its stack; older files have one table
  called `embedding`."""
  name = name if name.startswith(("backbone.", "lm_head.")) else f"backbone.{name}"
  return name.replace("backbone.embedding.", "backbone.embeddings.")


# ----------------------------------------------------------------- what the relatives take over


def stream(fields, layer, tied):
  """The options of a plain stack of `layer`; `tied` where config.json does not say."""
  width, repeats = fields.take("hidden_size"), fields.take("num_hidden_layers")
  inner = fields.take("expand", 2) * width
  for name, value in (("d_model", width), ("n_layer", repeats)):
    fields.require(name, value)
  for name in ("intermediate_size", "d_inner"):
    fields.require(name, inner)
  fields.require("rms_norm", True)
  fields.require("ssm_cfg", {})
  # The stored table has its padded rows; sums in float32 or not are the compute type's matter.
  fields.ignore("pad_vocab_size_multiple", "residual_in_fp32", "fused_add_norm")
  fields.ignore("rescale_prenorm_residual", "time_step_init_scheme")
  fields.ignore("time_step_min", "time_step_max", "time_step_floor")
  return {
    "vocab_size": fields.take("vocab_size"),
    "d_model": width,
    "pattern": (layer,),
    "repeats": repeats,
    "norm": "rmsnorm",
    "norm_epsilon": fields.take("layer_norm_epsilon", 1e-5),
    "tie_embeddings": fields.take("tie_word_embeddings", tied),
    "heads": causal_heads(fields),
  }


def mixer_options(fields):
  """What both generations of the layer name alike."""
  fields.require("hidden_act", "silu", "swish")
  return {
    "expand": fields.take("expand", 2),
    "d_conv": fields.take("conv_kernel", 4),
    "use_bias": fields.take("use_bias", False),
    "conv_bias": fields.take("use_conv_bias", True),
  }


def rank(fields, name):
  """The rank of the step sizes; 0 follows from the width."""
  return 0 if fields.take(name, AUTO, kind=object) == AUTO else fields.take(name)


def published(spec, layer, architecture):
  """The fields that both generations share, or None for another kind of model."""
  names = {name for pattern, _ in spec.decoder_stages for name in branches(pattern)}
  if spec.kind != "decoder" or names != {layer}:
    return None
  mixer = spec.layers[layer]
  return {
    "model_type": layer,
    "architectures": [architecture if spec.heads else architecture.replace("ForCausalLM", "Model")],
    "vocab_size": spec.vocab_size,
    "hidden_size": spec.d_model,
    "num_hidden_layers": sum(len(p) * repeats for p, repeats in spec.decoder_stages),
    "layer_norm_epsilon": spec.norm_epsilon,
    "tie_word_embeddings": spec.tie_embeddings,
    "expand": mixer["expand"],
    "conv_kernel": mixer["d_conv"],
    "use_bias": mixer["use_bias"],
    "use_conv_bias": mixer["conv_bias"],
    "hidden_act": "silu",
  }


def stream_weights(spec):
  """The rows outside the layers."""
  rows = [weight("embed/tokens", "backbone.embeddings.weight")]
  rows += norm_weights("stack/final_norm", "backbone.norm_f")
  if spec.heads and not spec.tie_embeddings:
    rows.append(weight("head/out/kernel", "lm_head.weight", "v d -> d v"))
  return rows


def mixer_weights(entry, at, fields):
  """The rows of one layer whose tensors lie under `at`."""
  rows = [entry.weight(name, f"{at}.{name}") for name in ("A_log", "D")]
  rows += [
    entry.weight("in_proj/kernel", f"{at}.in_proj.weight", "(p i) d -> d p i", p=2),
    entry.weight("x_proj/kernel", f"{at}.x_proj.weight", "f i -> i f"),
    entry.weight("dt_proj/kernel", f"{at}.dt_proj.weight", "i r -> r i"),
    entry.weight("dt_proj/bias", f"{at}.dt_proj.bias"),
  ]
  rows += around_weights(entry, at, fields)
  if fields["use_bias"]:
    rows.append(entry.weight("in_proj/bias", f"{at}.in_proj.bias", "(p i) -> p i", p=2))
  if fields["norm_maps"]:
    for name in ("dt", "B", "C"):
      rows += [entry.weight(f"{name}_norm/scale", f"{at}.{name.lower()}_layernorm.weight")]
  return rows


def around_weights(entry, at, fields):
  """The convolution and the projection to the stream."""
  rows = [
    entry.weight("conv1d/kernel", f"{at}.conv1d.weight", "i 1 k -> k i"),
    entry.weight("out_proj/kernel", f"{at}.out_proj.weight", "d i -> i d"),
  ]
  if fields["conv_bias"]:
    rows.append(entry.weight("conv1d/bias", f"{at}.conv1d.bias"))
  if fields["use_bias"]:
    rows.append(entry.weight("out_proj/bias", f"{at}.out_proj.bias"))
  return rows
