"""Elman: six residual layers of the plain recurrent network (Elman 1990).

Run: python launch.py train --config=experiments/elman.py
Takes: not measured yet, for 200 steps of 0 parameters.
Expect: not measured yet.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.model = model_config(
    pattern=("elman",),
    repeats=6,
    d_model=192,
    tie_embeddings=False,
  )
  return with_mode(config, mode)
