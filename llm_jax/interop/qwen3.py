"""Qwen3: Qwen2 with a norm of each head's queries and keys instead of biases."""

from llm_jax.interop import llama, qwen2

MODEL_TYPES = ("qwen3",)
IGNORED, aliases, rename, weights = llama.IGNORED, llama.aliases, llama.rename, llama.weights


def model_config(fields):
  """The model of a config.json."""
  bias = fields.take("attention_bias", False)
  attention = llama.attention(
    fields,
    groups=32,
    size=128,
    use_bias=bias,
    out_bias=bias,
    qk_norm=True,
    norm_epsilon=fields.take("rms_norm_eps", 1e-6),
  )
  return qwen2.windowed_model(fields, attention)


def published_config(spec):
  """The config.json of a model."""
  config = llama.published(spec, "Qwen3ForCausalLM", "mlp")
  return config and {
    **config,
    "model_type": "qwen3",
    "attention_bias": spec.layers["attention"]["use_bias"],
    **qwen2.published_windows(spec),
  }
