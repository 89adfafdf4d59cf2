"""BLOOM: the names, shapes and config of its published checkpoints.

Source: Scao et al. 2022, arXiv:2211.05100. The inner width of its feed-forward layers, four times
the model's, and their activation are fixed in transformers' `bloom`, which is followed.
"""

from llm_jax.errors import UserError
from llm_jax.interop.gpt_neox import layer_weights
from llm_jax.interop.llama import causal_heads
from llm_jax.interop.weights import norm_weights, weight
from llm_jax.models import spec as specs

MODEL_TYPES = ("bloom",)
_FIXED = {"activation": "gelu_tanh", "use_bias": True}


def model_config(fields):
  """The `model` part of a config, from the fields of a published one."""
  width = _either(fields, "hidden_size", "n_embed")
  fields.require("apply_residual_connection_post_layernorm", False)
  fields.require("n_inner", 4 * width)
  # Forms of the same sums, of the training program that wrote the published files.
  fields.ignore("slow_but_exact", "attention_softmax_in_fp32", "masked_softmax_fusion")
  fields.ignore("bias_dropout_fusion", "skip_bias_add", "skip_bias_add_qkv", "offset_alibi")
  return specs.model_config(
    heads=causal_heads(fields),
    vocab_size=fields.take("vocab_size"),
    d_model=width,
    repeats=_either(fields, "n_layer", "num_hidden_layers"),
    max_length=fields.take("seq_length", 0),
    norm_epsilon=fields.take("layer_norm_epsilon", 1e-5),
    embedding_norm=True,
    tie_embeddings=fields.take("tie_word_embeddings", True),
    layers={
      "attention": {
        "num_heads": _either(fields, "n_head", "num_attention_heads"),
        "positions": "alibi",
      },
      "mlp": {"d_ff": 4 * width, **_FIXED},
    },
  )


def _either(fields, name, other):
  """The value of a field that has two names."""
  found = {fields.take(name, None), fields.take(other, None)} - {None}
  if len(found) > 1:
    raise UserError(f"config.json gives both {name} and {other}, and they differ: {found}.")
  return found.pop() if found else fields.take(name)


def published_config(spec):
  """The fields of a config.json; None where a layer is none of this family's."""
  if spec.kind != "decoder" or set(spec.layers) != {"attention", "mlp"}:
    return None
  return {
    "model_type": "bloom",
    "architectures": ["BloomForCausalLM" if spec.heads else "BloomModel"],
    "vocab_size": spec.vocab_size,
    "hidden_size": spec.d_model,
    "n_layer": sum(repeats for _, repeats in spec.decoder_stages),
    "n_head": spec.layers["attention"]["num_heads"],
    "layer_norm_epsilon": spec.norm_epsilon,
    "tie_word_embeddings": spec.tie_embeddings,
    **({"seq_length": spec.max_length} if spec.max_length else {}),
  }


def rename(name):
  """Most published files lack the prefix."""
  return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"


def weights(spec):
  """Every parameter and its tensors."""
  table = [
    weight("embed/tokens", "transformer.word_embeddings.weight"),
    *norm_weights("embed/norm", "transformer.word_embeddings_layernorm", bias=True),
    *norm_weights("stack/final_norm", "transformer.ln_f", bias=True),
  ]
  if spec.heads and not spec.tie_embeddings:
    table.append(weight("head/out/kernel", "lm_head.weight", "v d -> d v"))
  return table + layer_weights(spec, "transformer.h.{}", "self_attention")


def aliases(spec):
  """Tied copies that a file may hold."""
  return {"lm_head.weight": "transformer.word_embeddings.weight"} if spec.tie_embeddings else {}
