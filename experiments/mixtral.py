"""Mixtral: Mistral with two of eight experts for each token (Jiang et al. 2024, arXiv:2401.04088).

The sizes are the released ones, "8x7b" and "8x22b".

Run: python launch.py train --config=experiments/mixtral.py
Takes: 55 s of CPU time, for 200 steps of 902,784 parameters.
Expect: 2.32 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

_RELEASED = {"num_experts": 8, "num_kv_heads": 8, "rope_base": 1e6, "vocab_size": 32_000}
SIZES = {
  "8x7b": {**_RELEASED, "d_model": 4096, "repeats": 32, "num_heads": 32, "d_ff": 14_336},
  "8x22b": {**_RELEASED, "d_model": 6144, "repeats": 56, "num_heads": 48, "d_ff": 16_384},
}
_SMALL = {
  "num_experts": 4,
  "num_kv_heads": 2,
  "rope_base": 1e4,
  "repeats": 2,
  "num_heads": 4,
  "d_ff": 176,
}


def get_config(mode=""):
  config = base()
  size = dict(SIZES.get(mode, _SMALL))
  attention = {name: size.pop(name) for name in ("num_heads", "num_kv_heads", "rope_base")}
  experts = {name: size.pop(name) for name in ("num_experts", "d_ff")}
  config.model = model_config(
    pattern=("attention", "moe"),
    norm="rmsnorm",
    tie_embeddings=False,
    layers={
      "attention": {"positions": "rope", "use_bias": False, "out_bias": False, **attention},
      "moe": {"top_k": 2, "activation": "swiglu", **experts},
    },
    **size,
  )
  return with_mode(config, mode, SIZES)
