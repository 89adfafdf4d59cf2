"""LSTM: two residual layers, the recurrent baseline (Hochreiter & Schmidhuber 1997).

Run: python launch.py train --config=experiments/lstm.py
Takes: a minute on two CPU cores, for 200 steps of 1,059,840 parameters.
Expect: 2.14 bits per byte of held-out text.
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
