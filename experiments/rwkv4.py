"""RWKV-4: time mixing and channel mixing (Peng et al. 2023, arXiv:2305.13048).

The sizes are those the authors trained on the Pile.

Run: python launch.py train --config=experiments/rwkv4.py
Takes: a minute on two CPU cores, for 200 steps of 1,120,256 parameters.
Expect: 2.12 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

SIZES = {
  "169m": {"vocab_size": 50277, "d_model": 768, "repeats": 12},
  "430m": {"vocab_size": 50277, "d_model": 1024, "repeats": 24},
  "1b5": {"vocab_size": 50277, "d_model": 2048, "repeats": 24},
  "3b": {"vocab_size": 50277, "d_model": 2560, "repeats": 32},
  "7b": {"vocab_size": 50277, "d_model": 4096, "repeats": 32},
  "14b": {"vocab_size": 50277, "d_model": 5120, "repeats": 40},
}


def get_config(mode=""):
  config = base()
  config.model = model_config(
    pattern=("rwkv4_time_mix", "rwkv4_channel_mix"),
    embedding_norm=True,
    tie_embeddings=False,
    **SIZES.get(mode, {"repeats": 4}),
  )
  return with_mode(config, mode, SIZES)
