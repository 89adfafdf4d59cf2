"""Elman: six residual layers of the plain recurrent network (Elman 1990).

Run: python launch.py train --config=experiments/elman.py
Takes: a minute on two CPU cores, for 200 steps of 1,061,760 parameters.
Expect: 2.24 bits per byte of held-out text.
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
