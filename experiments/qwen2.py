"""Qwen2: Llama with grouped heads and biases of queries, keys and values (arXiv:2407.10671).

The sizes are the released ones of Qwen2, and those that Qwen2.5 added (arXiv:2412.15115), whose
others are the same.

Run: python launch.py train --config=experiments/qwen2.py
Takes: 63 s of CPU time, for 200 steps of 858,240 parameters.
Expect: 2.33 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

_TIED = {"vocab_size": 151_936, "tie_embeddings": True, "rope_base": 1e6}
_UNTIED = {"vocab_size": 152_064, "tie_embeddings": False, "rope_base": 1e6}


def _size(family, d_model, repeats, num_heads, num_kv_heads, d_ff):
  return {
    **family,
    "d_model": d_model,
    "repeats": repeats,
    "num_heads": num_heads,
    "num_kv_heads": num_kv_heads,
    "d_ff": d_ff,
  }


SIZES = {
  "0.5b": _size(_TIED, 896, 24, 14, 2, 4864),
  "1.5b": _size(_TIED, 1536, 28, 12, 2, 8960),
  "7b": _size(_UNTIED, 3584, 28, 28, 4, 18_944),
  "72b": _size(_UNTIED, 8192, 80, 64, 8, 29_568),
  "2.5-3b": _size(_TIED, 2048, 36, 16, 2, 11_008),
  "2.5-14b": _size(_UNTIED, 5120, 48, 40, 8, 13_824),
  "2.5-32b": _size(_UNTIED, 5120, 64, 40, 8, 27_648),
}
_SMALL = {"repeats": 4, "num_heads": 4, "num_kv_heads": 2, "rope_base": 1e4}


def get_config(mode=""):
  config = base()
  size = dict(SIZES.get(mode, _SMALL))
  attention = {name: size.pop(name) for name in ("num_heads", "num_kv_heads", "rope_base")}
  config.model = model_config(
    pattern=("attention", "mlp"),
    norm="rmsnorm",
    norm_epsilon=1e-6,
    layers={
      "attention": {"positions": "rope", "use_bias": True, "out_bias": False, **attention},
      "mlp": {"activation": "swiglu", "use_bias": False, "d_ff": size.pop("d_ff", 0)},
    },
    **size,
  )
  return with_mode(config, mode, SIZES)
