"""RWKV-4: time mixing and channel mixing (Peng et al. 2023, arXiv:2305.13048).

Run: python launch.py train --config=experiments/rwkv4.py
Takes: a minute on two CPU cores, for 200 steps of 1,120,256 parameters.
Expect: 2.12 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.model = model_config(
    pattern=("rwkv4_time_mix", "rwkv4_channel_mix"),
    repeats=4,
    embedding_norm=True,
    tie_embeddings=False,
  )
  return with_mode(config, mode)
