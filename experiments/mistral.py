"""Mistral: Llama with grouped heads and a sliding window (Jiang et al. 2023, arXiv:2310.06825).

The size "7b" is version 0.1, as in the paper; "7b-0.3" has a larger vocabulary and no window.

Run: python launch.py train --config=experiments/mistral.py
Takes: 66 s of CPU time, for 200 steps of 988,288 parameters.
Expect: 2.29 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

_7B = {"d_model": 4096, "repeats": 32, "num_heads": 32, "num_kv_heads": 8, "d_ff": 14_336}
SIZES = {
  "7b": {**_7B, "vocab_size": 32_000, "window": 4096, "rope_base": 1e4},
  "7b-0.3": {**_7B, "vocab_size": 32_768, "window": 0, "rope_base": 1e6},
}
_SMALL = {"repeats": 4, "num_heads": 4, "num_kv_heads": 2, "window": 64, "rope_base": 1e4}
_ATTENTION = ("num_heads", "num_kv_heads", "window", "rope_base")


def get_config(mode=""):
  config = base()
  size = dict(SIZES.get(mode, _SMALL))
  attention = {
    name: size.pop(name) for name in ("num_heads", "num_kv_heads", "window", "rope_base")
  }
  config.model = model_config(
    pattern=("attention", "mlp"),
    norm="rmsnorm",
    tie_embeddings=False,
    layers={
      "attention": {"positions": "rope", "use_bias": False, "out_bias": False, **attention},
      "mlp": {"activation": "swiglu", "use_bias": False, "d_ff": size.pop("d_ff", 0)},
    },
    **size,
  )
  return with_mode(config, mode, SIZES)
