"""GPT-1: names, shapes and config of its published checkpoint."""

from llm_jax.interop import gpt2
from llm_jax.interop.llama import causal_heads
from llm_jax.interop.weights import weight
from llm_jax.models import spec as specs

MODEL_TYPES = ("openai-gpt",)
IGNORED = (*gpt2.IGNORED, r"(transformer\.)?position_ids")
# Here "gelu" is the approximation by tanh, whatever the name means elsewhere.
_ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
rename = gpt2.rename


def model_config(fields):
  """The `model` part of a config from the published fields."""
  fields.ignore("n_ctx", "n_special", "predict_special_tokens")
  fields.require("afn", *_ACTIVATIONS)
  activation = _ACTIVATIONS[fields.take("afn", "gelu")]
  return specs.model_config(
    heads=causal_heads(fields),
    vocab_size=fields.take("vocab_size", 40478),
    d_model=fields.take("n_embd", 768),
    repeats=fields.take("n_layer", 12),
    positions="learned",
    max_length=fields.take("n_positions", 512),
    norm_epsilon=fields.take("layer_norm_epsilon", 1e-5),
    norm_placement="post",
    final_norm=False,
    tie_embeddings=fields.take("tie_word_embeddings", True),
    layers={
      "attention": {"num_heads": fields.take("n_head", 12)},
      "mlp": {"activation": activation},
    },
  )


def published_config(spec):
  """config.json of this model; None if it has other layers or activations."""
  names = {ours: name for name, ours in _ACTIVATIONS.items() if name != "swish"}
  if set(spec.layers) != {"attention", "mlp"} or spec.layers["mlp"]["activation"] not in names:
    return None
  return {
    "model_type": "openai-gpt",
    "architectures": ["OpenAIGPTLMHeadModel" if spec.heads else "OpenAIGPTModel"],
    "vocab_size": spec.vocab_size,
    "n_embd": spec.d_model,
    "n_layer": spec.repeats,
    "n_head": spec.layers["attention"]["num_heads"],
    "n_positions": spec.max_length,
    "afn": names[spec.layers["mlp"]["activation"]],
    "layer_norm_epsilon": spec.norm_epsilon,
    "tie_word_embeddings": spec.tie_embeddings,
  }


def weights(spec):
  """Names and layouts of every parameter."""
  found = [
    weight("embed/tokens", "transformer.tokens_embed.weight"),
    weight("embed/positions", "transformer.positions_embed.weight"),
  ]
  if spec.heads and not spec.tie_embeddings:
    found.append(weight("head/out/kernel", "lm_head.weight", "v d -> d v"))
  return found + gpt2.blocks(spec)


def aliases(spec):
  """The head's matrix under its own name, where it is the table of tokens."""
  return {"lm_head.weight": "transformer.tokens_embed.weight"} if spec.tie_embeddings else {}
