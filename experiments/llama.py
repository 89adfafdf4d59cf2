"""Llama: rotary positions, RMS norm, SwiGLU, no biases (Touvron et al. 2023, arXiv:2302.13971).

Run: python launch.py train --config=experiments/llama.py
Takes: a minute on two CPU cores, for 200 steps of 1,053,824 parameters.
Expect: 2.30 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.model = model_config(
    pattern=("attention", "mlp"),
    repeats=4,
    norm="rmsnorm",
    tie_embeddings=False,
    layers={
      "attention": {"num_heads": 4, "positions": "rope", "use_bias": False, "out_bias": False},
      "mlp": {"activation": "swiglu", "use_bias": False},
    },
  )
  return with_mode(config, mode)
