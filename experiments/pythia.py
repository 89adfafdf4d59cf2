"""Pythia, a GPT-NeoX: attention and MLP in parallel, a quarter of each head rotated.

The sizes are those of Biderman et al. 2023, arXiv:2304.01373, table 1, and two smaller ones that
were released later; the architecture is that of Black et al. 2022, arXiv:2204.06745.

Run: python launch.py train --config=experiments/pythia.py
Takes: a minute of one CPU core, for 200 steps of 1,055,488 parameters.
Expect: 2.32 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

_RELEASED = {"vocab_size": 50_304, "max_length": 2048}
SIZES = {
  "14m": {**_RELEASED, "d_model": 128, "repeats": 6, "num_heads": 4},
  "31m": {**_RELEASED, "d_model": 256, "repeats": 6, "num_heads": 8},
  "70m": {**_RELEASED, "d_model": 512, "repeats": 6, "num_heads": 8},
  "160m": {**_RELEASED, "d_model": 768, "repeats": 12, "num_heads": 12},
  "410m": {**_RELEASED, "d_model": 1024, "repeats": 24, "num_heads": 16},
  "1b": {**_RELEASED, "d_model": 2048, "repeats": 16, "num_heads": 8},
  "1.4b": {**_RELEASED, "d_model": 2048, "repeats": 24, "num_heads": 16},
  "2.8b": {**_RELEASED, "d_model": 2560, "repeats": 32, "num_heads": 32},
  "6.9b": {**_RELEASED, "d_model": 4096, "repeats": 32, "num_heads": 32, "vocab_size": 50_432},
  "12b": {**_RELEASED, "d_model": 5120, "repeats": 36, "num_heads": 40, "vocab_size": 50_688},
}


def get_config(mode=""):
  config = base()
  size = dict(SIZES.get(mode, {"repeats": 4, "num_heads": 4}))
  heads = size.pop("num_heads")
  config.model = model_config(
    pattern=(("attention", "mlp"),),
    group_norm=False,
    tie_embeddings=False,
    layers={"attention": {"num_heads": heads, "positions": "rope", "rope_fraction": 0.25}},
    **size,
  )
  return with_mode(config, mode, SIZES)
