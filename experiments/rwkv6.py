"""RWKV-6, Finch: decays and mixtures that depend on the token (Peng et al. 2024, arXiv:2404.05892).

7b and 14b have low-rank maps twice as wide.

Run: python launch.py train --config=experiments/rwkv6.py
Takes: 2 minutes of one CPU core, for 200 steps of 1,180,160 parameters.
Expect: 2.15 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

_WIDE = {"mix_rank": 64, "decay_rank": 128}
SIZES = {
  "1b6": {"vocab_size": 65536, "d_model": 2048, "repeats": 24},
  "3b": {"vocab_size": 65536, "d_model": 2560, "repeats": 32},
  "7b": {"vocab_size": 65536, "d_model": 4096, "repeats": 32, **_WIDE},
  "14b": {"vocab_size": 65536, "d_model": 4096, "repeats": 61, **_WIDE},
}
_SMALL = {"d_model": 128, "repeats": 4, "mix_rank": 8, "decay_rank": 16}


def get_config(mode=""):
  config = base()
  config.model = _model(**SIZES.get(mode, _SMALL))
  return with_mode(config, mode, SIZES)


def _model(d_model, mix_rank=32, decay_rank=64, **size):
  time = {"num_heads": d_model // 64, "mix_rank": mix_rank, "decay_rank": decay_rank}
  return model_config(
    d_model=d_model,
    pattern=("rwkv6_time_mix", "rwkv6_channel_mix"),
    embedding_norm=True,
    tie_embeddings=False,
    layers={"rwkv6_time_mix": time},
    **size,
  )
