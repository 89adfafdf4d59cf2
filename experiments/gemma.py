"""Gemma: GEGLU, scaled embeddings, heads whose size is free of the model's width.

The sizes are those of Gemma Team 2024, arXiv:2403.08295, table 1.

Run: python launch.py train --config=experiments/gemma.py
Takes: a minute of one CPU core, for 200 steps of 967,808 parameters.
Expect: 2.46 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

_RELEASED = {"vocab_size": 256_000, "max_length": 8192}
SIZES = {
  "2b": {
    "stream": {**_RELEASED, "d_model": 2048, "repeats": 18},
    "attention": {"num_heads": 8, "num_kv_heads": 1, "head_dim": 256},
    "d_ff": 16_384,
  },
  "7b": {
    "stream": {**_RELEASED, "d_model": 3072, "repeats": 28},
    "attention": {"num_heads": 16, "num_kv_heads": 16, "head_dim": 256},
    "d_ff": 24_576,
  },
}
_SMALL = {
  "stream": {"repeats": 4},
  "attention": {"num_heads": 4, "num_kv_heads": 1, "head_dim": 48},
  "d_ff": 384,
}


def get_config(mode=""):
  config = base()
  size = SIZES.get(mode, _SMALL)
  attention = {"positions": "rope", "use_bias": False, "out_bias": False, **size["attention"]}
  config.model = model_config(
    pattern=("attention", "mlp"),
    norm="rmsnorm_plus_one",
    norm_epsilon=1e-6,
    embedding_scale=True,
    layers={
      "attention": attention,
      "mlp": {"activation": "geglu_tanh", "use_bias": False, "d_ff": size["d_ff"]},
    },
    **size["stream"],
  )
  return with_mode(config, mode, SIZES)
