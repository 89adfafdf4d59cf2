"""Jamba: Mamba with attention now and then, and experts in every other layer (arXiv:2403.19887).

Attention has no positions of its own: the recurrence supplies the order. Published sizes: 52b is
Jamba v0.1 and 1.5 Mini, 398b is 1.5 Large.

Run: python launch.py train --config=experiments/jamba.py
Takes: 2 minutes of one CPU core, for 200 steps of 1,578,704 parameters.
Expect: 2.13 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

# Eight layers, of which the fifth attends, and every second one has experts.
_MAMBA, _ATTENTION = ("mamba", "mlp", "mamba", "moe"), ("attention", "mlp", "mamba", "moe")
_PUBLISHED = {
  "vocab_size": 65536,
  "max_length": 262144,
  "pattern": _MAMBA + _MAMBA + _ATTENTION + _MAMBA,
}
SIZES = {
  "52b": {
    **_PUBLISHED,
    "d_model": 4096,
    "repeats": 4,
    "num_heads": 32,
    "num_kv_heads": 8,
    "d_ff": 14336,
    "num_experts": 16,
  },
  "398b": {
    **_PUBLISHED,
    "d_model": 8192,
    "repeats": 9,
    "num_heads": 64,
    "num_kv_heads": 8,
    "d_ff": 24576,
    "num_experts": 16,
  },
}
_SMALL = {
  "pattern": ("mamba", "mlp", "attention", "moe"),
  "repeats": 2,
  "num_heads": 4,
  "num_kv_heads": 2,
  "d_ff": 256,
  "num_experts": 4,
}


def get_config(mode=""):
  config = base()
  size = dict(SIZES.get(mode, _SMALL))
  heads = {name: size.pop(name) for name in ("num_heads", "num_kv_heads")}
  inner, experts = size.pop("d_ff"), size.pop("num_experts")
  config.model = model_config(
    norm="rmsnorm",
    norm_epsilon=1e-6,
    tie_embeddings=False,
    layers={
      "mamba": {"norm_maps": True},
      "attention": {**heads, "use_bias": False, "out_bias": False},
      "mlp": {"d_ff": inner, "activation": "swiglu", "use_bias": False},
      "moe": {"d_ff": inner, "num_experts": experts, "renormalise": False},
    },
    **size,
  )
  return with_mode(config, mode, SIZES)
