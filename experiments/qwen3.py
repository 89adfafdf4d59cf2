"""Qwen3: Llama with grouped heads, and a norm of each head's queries and keys (arXiv:2505.09388).

The sizes are the released dense ones.

Run: python launch.py train --config=experiments/qwen3.py
Takes: 71 s of CPU time, for 200 steps of 857,472 parameters.
Expect: 2.33 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def _size(d_model, repeats, num_heads, d_ff, tie_embeddings):
  return {
    "vocab_size": 151_936,
    "d_model": d_model,
    "repeats": repeats,
    "tie_embeddings": tie_embeddings,
    "d_ff": d_ff,
    "attention": {"num_heads": num_heads, "num_kv_heads": 8, "head_dim": 128, "rope_base": 1e6},
  }


SIZES = {
  "0.6b": _size(1024, 28, 16, 3072, True),
  "1.7b": _size(2048, 28, 16, 6144, True),
  "4b": _size(2560, 36, 32, 9728, True),
  "8b": _size(4096, 36, 32, 12_288, False),
  "14b": _size(5120, 40, 40, 17_408, False),
  "32b": _size(5120, 64, 64, 25_600, False),
}
_SMALL = {"repeats": 4, "attention": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32}}
_EPSILON = 1e-6


def get_config(mode=""):
  config = base()
  size = dict(SIZES.get(mode, _SMALL))
  attention = {
    "positions": "rope",
    "use_bias": False,
    "out_bias": False,
    "qk_norm": True,
    "norm_epsilon": _EPSILON,
    **size.pop("attention"),
  }
  config.model = model_config(
    pattern=("attention", "mlp"),
    norm="rmsnorm",
    norm_epsilon=_EPSILON,
    layers={
      "attention": attention,
      "mlp": {"activation": "swiglu", "use_bias": False, "d_ff": size.pop("d_ff", 0)},
    },
    **size,
  )
  return with_mode(config, mode, SIZES)
