"""S5: a diagonal complex state space model, then an MLP (Smith et al. 2023, arXiv:2208.04933).

Run: python launch.py train --config=experiments/s5.py
Takes: a minute on two CPU cores, for 200 steps of 923,776 parameters.
Expect: 2.39 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.model = model_config(
    pattern=("s5", "mlp"),
    repeats=4,
    tie_embeddings=False,
  )
  return with_mode(config, mode)
