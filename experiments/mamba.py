"""Mamba: selective state spaces alone (Gu & Dao 2023, arXiv:2312.00752).

Published sizes: 130m, 370m, 790m, 1.4b, 2.8b.

Run: python launch.py train --config=experiments/mamba.py
Takes: 2 minutes on two CPU cores, for 200 steps of 597,632 parameters.
Expect: 2.35 bits per byte of held-out text.
Sweep: python launch.py sweep --config=experiments/mamba.py
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config
from llm_jax.sweeps.space import integers, log_uniform

SIZES = {
  "130m": {"d_model": 768, "repeats": 24},
  "370m": {"d_model": 1024, "repeats": 48},
  "790m": {"d_model": 1536, "repeats": 48},
  "1.4b": {"d_model": 2048, "repeats": 48},
  "2.8b": {"d_model": 2560, "repeats": 64},
}


def get_config(mode=""):
  config = base()
  # The published table has 50,277 tokens, padded to a multiple of 8.
  size = SIZES[mode] | {"vocab_size": 50280} if mode in SIZES else {"repeats": 4}
  config.model = model_config(
    pattern=("mamba",),
    norm="rmsnorm",
    **size,
  )
  return with_mode(config, mode, SIZES)


def sweep():
  return {
    "optimizer.learning_rate": log_uniform(2e-3, 1.6e-2, points=4),
    "model.layers.mamba.d_state": integers(4, 16, points=3, log=True),
  }
