"""S4D: a diagonal state space model a channel, then an MLP (Gu et al. 2022, arXiv:2206.11893).

Run: python launch.py train --config=experiments/s4d.py
Takes: 3 minutes of one CPU core, for 200 steps of 940,800 parameters.
Expect: 2.42 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.model = model_config(
    pattern=("s4d", "mlp"),
    repeats=4,
    tie_embeddings=False,
    layers={"s4d": {"d_state": 16}},
  )
  return with_mode(config, mode)
