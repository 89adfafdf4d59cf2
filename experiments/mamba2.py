"""Mamba-2: state space duality alone (Dao & Gu 2024, arXiv:2405.21060).

Published sizes: 130m, 370m, 780m, 1.3b, 2.7b; 7b is Codestral Mamba.

Run: python launch.py train --config=experiments/mamba2.py
Takes: 2 minutes of one CPU core, for 200 steps of 603,360 parameters.
Expect: 2.23 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

_PILE = {"vocab_size": 50288}  # 50,277 tokens, padded to a multiple of 16
SIZES = {
  "130m": {"d_model": 768, "repeats": 24, **_PILE},
  "370m": {"d_model": 1024, "repeats": 48, **_PILE},
  "780m": {"d_model": 1536, "repeats": 48, **_PILE},
  "1.3b": {"d_model": 2048, "repeats": 48, **_PILE},
  "2.7b": {"d_model": 2560, "repeats": 64, **_PILE},
  "7b": {
    "d_model": 4096,
    "repeats": 64,
    "vocab_size": 32768,
    "tie_embeddings": False,
    "layers": {"mamba2": {"num_groups": 8}},
  },
}


def get_config(mode=""):
  config = base()
  small = {"repeats": 4, "layers": {"mamba2": {"d_state": 64, "head_dim": 32}}}
  config.model = model_config(
    pattern=("mamba2",),
    norm="rmsnorm",
    **SIZES.get(mode, small),
  )
  return with_mode(config, mode, SIZES)
