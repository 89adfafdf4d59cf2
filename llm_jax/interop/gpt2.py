"""GPT-2: names, shapes and config of its published checkpoints."""

from llm_jax.interop.fields import activation, published_activation
from llm_jax.interop.llama import causal_heads
from llm_jax.interop.weights import entries, weight
from llm_jax.models import spec as specs

MODEL_TYPES = ("gpt2",)
IGNORED = (r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",)  # the causal mask
_BLOCK = "transformer.h.{}."


def model_config(fields):
  """The `model` part of a config from the published fields."""
  fields.require("scale_attn_by_inverse_layer_idx", False)
  # The order of products, a copy of n_positions, and what came with GPT-1.
  fields.ignore("reorder_and_upcast_attn", "n_ctx", "predict_special_tokens")
  scaled = fields.take("scale_attn_weights", True)
  return specs.model_config(
    heads=causal_heads(fields),
    vocab_size=fields.take("vocab_size", 50257),
    d_model=fields.take("n_embd", 768),
    repeats=fields.take("n_layer", 12),
    positions="learned",
    max_length=fields.take("n_positions", 1024),
    norm_epsilon=fields.take("layer_norm_epsilon", 1e-5),
    tie_embeddings=fields.take("tie_word_embeddings", True),
    layers={
      "attention": {
        "num_heads": fields.take("n_head", 12),
        "query_scale": 0.0 if scaled else 1.0,
      },
      "mlp": {
        "d_ff": fields.take("n_inner", 0),
        "activation": activation(fields.take("activation_function", "gelu_new")),
      },
    },
  )


def published_config(spec):
  """config.json of this model; None if it has other layers than attention and MLP."""
  if set(spec.layers) != {"attention", "mlp"}:
    return None
  attention, mlp = spec.layers["attention"], spec.layers["mlp"]
  return {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel" if spec.heads else "GPT2Model"],
    "vocab_size": spec.vocab_size,
    "n_embd": spec.d_model,
    "n_layer": spec.repeats,
    "n_head": attention["num_heads"],
    "n_inner": mlp["d_ff"],
    "n_positions": spec.max_length,
    "activation_function": published_activation(mlp["activation"]),
    "layer_norm_epsilon": spec.norm_epsilon,
    "scale_attn_weights": attention["query_scale"] != 1.0,
    "tie_word_embeddings": spec.tie_embeddings,
  }


def rename(name):
  """Files of the bare model lack the prefix."""
  return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"


def weights(spec):
  """Names and layouts of every parameter."""
  found = [
    weight("embed/tokens", "transformer.wte.weight"),
    weight("embed/positions", "transformer.wpe.weight"),
    weight("stack/final_norm/scale", "transformer.ln_f.weight"),
    weight("stack/final_norm/bias", "transformer.ln_f.bias"),
  ]
  if spec.heads and not spec.tie_embeddings:
    found.append(weight("head/out/kernel", "lm_head.weight", "v d -> d v"))
  return found + blocks(spec)


def blocks(spec):
  """The table of the blocks alone, whose names GPT-1 has too. Matrices map inputs to outputs."""
  found = []
  for entry in entries(spec.decoder_stages, 2):
    for here, there in (("scale", "weight"), ("bias", "bias")):
      found.append(entry.weight(f"{entry.norm}/{here}", f"{_BLOCK}ln_{entry.slot + 1}.{there}"))
    if entry.slot == 0:
      found += _attention(entry, spec.layers[entry.name]["num_heads"])
    else:
      found += _mlp(entry)
  return found


def _attention(entry, heads):
  inner, outer, sizes = f"{_BLOCK}attn.c_attn.", f"{_BLOCK}attn.c_proj.", {"p": 3, "h": heads}
  found = [
    entry.weight("out/kernel", f"{outer}weight", "(h k) d -> h k d", h=heads),
    entry.weight("out/bias", f"{outer}bias"),
  ]
  for part, name in enumerate("qkv"):
    kernel, bias = "d (p h k) -> p d h k", "(p h k) -> p h k"
    found.append(entry.weight(f"{name}/kernel", f"{inner}weight", kernel, part, **sizes))
    found.append(entry.weight(f"{name}/bias", f"{inner}bias", bias, part, **sizes))
  return found


def _mlp(entry):
  return [
    entry.weight(f"{here}/{ours}", f"{_BLOCK}mlp.{there}.{theirs}")
    for here, there in (("in", "c_fc"), ("out", "c_proj"))
    for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
  ]


def aliases(spec):
  """The head's matrix under its own name, where it is the table of tokens."""
  return {"lm_head.weight": "transformer.wte.weight"} if spec.tie_embeddings else {}
