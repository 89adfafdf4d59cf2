"""Gemma 2: a window in every second layer, norms on both sides of each, capped scores and logits.

The sizes are those of Gemma Team 2024, arXiv:2408.00118, table 1; a repeat of the pattern is two
layers.

Run: python launch.py train --config=experiments/gemma2.py
Takes: a minute of one CPU core, for 200 steps of 919,680 parameters.
Expect: 2.29 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

_RELEASED = {"vocab_size": 256_000, "max_length": 8192}
SIZES = {
  "2b": {
    "stream": {**_RELEASED, "d_model": 2304, "repeats": 13},
    "attention": {"num_heads": 8, "num_kv_heads": 4, "head_dim": 256},
    "window": 4096,
    "d_ff": 9216,
  },
  "9b": {
    "stream": {**_RELEASED, "d_model": 3584, "repeats": 21},
    "attention": {"num_heads": 16, "num_kv_heads": 8, "head_dim": 256},
    "window": 4096,
    "d_ff": 14_336,
  },
  "27b": {
    "stream": {**_RELEASED, "d_model": 4608, "repeats": 23},
    "attention": {"num_heads": 32, "num_kv_heads": 16, "head_dim": 128, "query_scale": 144**-0.5},
    "window": 4096,
    "d_ff": 36_864,
  },
}
_SMALL = {
  "stream": {"repeats": 2},
  "attention": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32},
  "window": 64,
  "d_ff": 384,
}


def get_config(mode=""):
  config = base()
  size = SIZES.get(mode, _SMALL)
  attention = {"positions": "rope", "use_bias": False, "out_bias": False, "soft_cap": 50.0}
  config.model = model_config(
    pattern=("local", "mlp", "attention", "mlp"),
    norm="rmsnorm_plus_one",
    norm_epsilon=1e-6,
    norm_placement="sandwich",
    embedding_scale=True,
    logit_soft_cap=30.0,
    layers={
      "attention": {**attention, **size["attention"]},
      "local": {"type": "attention", "window": size["window"]},
      "mlp": {"activation": "geglu_tanh", "use_bias": False, "d_ff": size["d_ff"]},
    },
    **size["stream"],
  )
  return with_mode(config, mode, SIZES)
