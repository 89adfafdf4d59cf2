"""LSTM: two residual layers, the recurrent baseline (Hochreiter & Schmidhuber 1997).

Run: python launch.py train --config=experiments/lstm.py
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.model = model_config(
    pattern=("lstm",),
    repeats=2,
    d_model=192,
    tie_embeddings=False,
  )
  return with_mode(config, mode)
