"""Mixtral: Mistral with a mixture of experts (Jiang et al. 2024, arXiv:2401.04088).

Layouts: d model, f feed-forward, e experts.
"""

from llm_jax.interop import llama, mistral
from llm_jax.interop.fields import gated
from llm_jax.interop.weights import entries, expert_weights, norm_weights
from llm_jax.models import spec as specs

MODEL_TYPES = ("mixtral",)
IGNORED, aliases, rename = llama.IGNORED, llama.aliases, llama.rename

_LAYER = "model.layers.{}."


def model_config(fields):
  """The model of a config.json."""
  window = mistral.window(fields, 0)
  attention = llama.attention(fields, base=1e6, groups=8, **mistral.unbiased(), window=window)
  experts = {
    "num_experts": fields.take("num_local_experts", 8),
    "top_k": fields.take("num_experts_per_tok", 2),
    "d_ff": fields.take("intermediate_size"),
    "activation": gated(fields.take("hidden_act", "silu")),
    "renormalise": True,
  }
  return specs.model_config(
    **llama.stream(fields, pattern=("attention", "moe"), epsilon=1e-5),
    layers={"attention": attention, "moe": experts},
  )


def published_config(spec):
  """The config.json of a model."""
  config = llama.published(spec, "MixtralForCausalLM", "moe")
  return config and {
    **config,
    "model_type": "mixtral",
    "sliding_window": spec.layers["attention"]["window"] or None,
    "num_local_experts": spec.layers["moe"]["num_experts"],
    "num_experts_per_tok": spec.layers["moe"]["top_k"],
  }


def weights(spec):
  """The table."""
  rows = llama.stream_weights(spec)
  for entry in entries(spec.decoder_stages, per_layer=2):
    fields = spec.layers[entry.name]
    if entry.slot == 0:
      rows += norm_weights(entry.norm, _LAYER + "input_layernorm", entry.numbers)
      rows += llama.attention_weights(entry, _LAYER + "self_attn", fields)
    else:
      rows += norm_weights(entry.norm, _LAYER + "post_attention_layernorm", entry.numbers)
      at, names = _LAYER + "block_sparse_moe.", ("w3", "w1", "w2")
      template = "model.layers.{0}.block_sparse_moe.experts.{1}.{2}.weight"
      rows += expert_weights(entry, f"{at}gate.weight", template, names, fields["num_experts"])
  return rows
