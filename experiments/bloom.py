"""BLOOM: ALiBi instead of positions, a norm behind the embedding (arXiv:2211.05100).

The sizes are those of Scao et al. 2022, table 3.

Run: python launch.py train --config=experiments/bloom.py
Takes: a minute of one CPU core, for 200 steps of 924,672 parameters.
Expect: 2.68 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

_RELEASED = {"vocab_size": 250_880, "max_length": 2048}
SIZES = {
  "560m": {**_RELEASED, "d_model": 1024, "repeats": 24, "num_heads": 16},
  "1b1": {**_RELEASED, "d_model": 1536, "repeats": 24, "num_heads": 16},
  "1b7": {**_RELEASED, "d_model": 2048, "repeats": 24, "num_heads": 16},
  "3b": {**_RELEASED, "d_model": 2560, "repeats": 30, "num_heads": 32},
  "7b1": {**_RELEASED, "d_model": 4096, "repeats": 30, "num_heads": 32},
  "176b": {**_RELEASED, "d_model": 14_336, "repeats": 70, "num_heads": 112},
}


def get_config(mode=""):
  config = base()
  size = dict(SIZES.get(mode, {"repeats": 4, "num_heads": 4}))
  heads = size.pop("num_heads")
  config.model = model_config(
    pattern=("attention", "mlp"),
    embedding_norm=True,
    layers={
      "attention": {"num_heads": heads, "positions": "alibi"},
      "mlp": {"activation": "gelu_tanh"},
    },
    **size,
  )
  return with_mode(config, mode, SIZES)
