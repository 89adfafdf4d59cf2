"""Mistral: Llama's table, and a window on the keys a token sees."""

from llm_jax.interop import llama
from llm_jax.models import spec as specs

MODEL_TYPES = ("mistral",)
IGNORED, aliases, rename, weights = llama.IGNORED, llama.aliases, llama.rename, llama.weights


def model_config(fields):
  """The model of a config.json."""
  return specs.model_config(
    **llama.stream(fields),
    layers={
      "attention": llama.attention(fields, groups=8, **unbiased(), window=window(fields, 4096)),
      "mlp": llama.mlp(fields, use_bias=False),
    },
  )


def window(fields, default):
  """How far a token sees; null is without limit, and `default` is what a missing field means."""
  return fields.take("sliding_window", default, null=0)


def unbiased():
  """The options of attention without any bias."""
  return {"use_bias": False, "out_bias": False}


def published_config(spec):
  """The config.json of a model."""
  config = llama.published(spec, "MistralForCausalLM", "mlp")
  return config and {
    **config,
    "model_type": "mistral",
    "sliding_window": spec.layers["attention"]["window"] or None,
  }
