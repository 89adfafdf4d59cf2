"""Hybrid: Mamba, attention and MLP layers in turn (after Jamba, Lieber et al. 2024).

Attention has no positions of its own: the recurrence supplies the order (arXiv:2403.19887).

Run: python launch.py train --config=experiments/hybrid.py
Takes: 2 minutes on two CPU cores, for 200 steps of 892,288 parameters.
Expect: 2.17 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.model = model_config(
    pattern=("mamba", "attention", "mlp"),
    repeats=2,
    norm="rmsnorm",
    tie_embeddings=False,
    layers={"attention": {"num_heads": 4}, "mlp": {"activation": "swiglu", "use_bias": False}},
  )
  return with_mode(config, mode)
