"""RWKV-5.2, Eagle: heads with a matrix for a state (Peng et al. 2024, arXiv:2404.05892).

The sizes are those of the released Eagle models.

Run: python launch.py train --config=experiments/rwkv5.py
Takes: 2 minutes of one CPU core, for 200 steps of 1,121,792 parameters.
Expect: 2.15 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

SIZES = {
  "0b4": {"vocab_size": 65536, "d_model": 1024, "repeats": 24},
  "1b5": {"vocab_size": 65536, "d_model": 2048, "repeats": 24},
  "3b": {"vocab_size": 65536, "d_model": 2560, "repeats": 32},
  "7b": {"vocab_size": 65536, "d_model": 4096, "repeats": 32},
}


def get_config(mode=""):
  config = base()
  size = SIZES.get(mode, {"d_model": 128, "repeats": 4})
  inner = 0 if mode == "tiny" else size["d_model"] * 7 // 2
  config.model = model_config(
    pattern=("rwkv5_time_mix", "rwkv4_channel_mix"),
    embedding_norm=True,
    tie_embeddings=False,
    layers={
      "rwkv5_time_mix": {"num_heads": size["d_model"] // 64},
      "rwkv4_channel_mix": {"d_ff": inner},
    },
    **size,
  )
  return with_mode(config, mode, SIZES)
