"""Mamba: selective state spaces alone (Gu & Dao 2023, arXiv:2312.00752).

Run: python launch.py train --config=experiments/mamba.py
Takes: 2 minutes on two CPU cores, for 200 steps of 597,632 parameters.
Expect: 2.35 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.model = model_config(
    pattern=("mamba",),
    repeats=4,
    norm="rmsnorm",
  )
  return with_mode(config, mode)
