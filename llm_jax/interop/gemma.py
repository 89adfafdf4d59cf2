"""Gemma: the names, shapes and config of its published checkpoints.

Beside Llama: scales of norms are stored minus one, embeddings are scaled by sqrt(d_model), and the
size of a head is free of the model's width.

Source: Gemma Team 2024, arXiv:2403.08295, and transformers' `gemma`.
"""

from llm_jax.interop import llama
from llm_jax.interop.fields import ACTIVATIONS, gated
from llm_jax.models import spec as specs

MODEL_TYPES = ("gemma",)
IGNORED, aliases, rename, weights = llama.IGNORED, llama.aliases, llama.rename, llama.weights


def model_config(fields):
  """The model of a config.json."""
  # The first files say "gelu" and mean its tanh form, and so transformers reads it, whose versions
  # differ on what `hidden_activation` says beside it: the two must agree.
  name = fields.take("hidden_act", "gelu_pytorch_tanh")
  name = "gelu_pytorch_tanh" if name == "gelu" else name
  same = [other for other, ours in ACTIVATIONS.items() if ours == ACTIVATIONS.get(name)]
  fields.require("hidden_activation", *same)
  layers = {"attention": attention(fields), "mlp": mlp(fields, name)}
  return specs.model_config(**stream(fields), layers=layers)


def published_config(spec):
  """The config.json of a model."""
  config = published(spec, "GemmaForCausalLM")
  return config if config and "local" not in spec.layers else None


# ------------------------------------------------------------------- what Gemma 2 takes over


def stream(fields):
  """The options of the stream around the layers."""
  return {**llama.stream(fields, tied=True), "norm": "rmsnorm_plus_one", "embedding_scale": True}


def attention(fields):
  """The options of attention."""
  fields.require("use_bidirectional_attention", False)
  bias = fields.take("attention_bias", False)
  options = llama.attention(fields, use_bias=bias, out_bias=bias)
  # Where Llama derives these two, Gemma's own code has constants.
  sizes = {"num_kv_heads": "num_key_value_heads", "head_dim": "head_dim"}
  return {**options, **{ours: fields.take(name) for ours, name in sizes.items()}}


def mlp(fields, name):
  """The options of the feed-forward layer; `name` is the published one of its activation."""
  return {"d_ff": fields.take("intermediate_size"), "activation": gated(name), "use_bias": False}


def published(spec, architecture):
  """The fields that both have, or None for another kind of model."""
  config = llama.published(spec, architecture, "mlp")
  if config is None:
    return None
  bias = spec.layers["attention"]["use_bias"]
  return {**config, "model_type": MODEL_TYPES[0], "attention_bias": bias}
