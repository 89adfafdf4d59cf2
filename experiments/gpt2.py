"""GPT-2: learned positions, layer norm before each layer, GELU (Radford et al. 2019).

The sizes are those of the paper's table 2, as they were released: small, medium, large, xl.

Run: python launch.py train --config=experiments/gpt2.py
Takes: a minute on two CPU cores, for 200 steps of 957,184 parameters.
Expect: 2.48 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

_RELEASED = {"vocab_size": 50257, "max_length": 1024}
SIZES = {
  "small": {**_RELEASED, "d_model": 768, "repeats": 12, "num_heads": 12},
  "medium": {**_RELEASED, "d_model": 1024, "repeats": 24, "num_heads": 16},
  "large": {**_RELEASED, "d_model": 1280, "repeats": 36, "num_heads": 20},
  "xl": {**_RELEASED, "d_model": 1600, "repeats": 48, "num_heads": 25},
}


def get_config(mode=""):
  config = base()
  size = dict(SIZES.get(mode, {"max_length": 256, "repeats": 4, "num_heads": 4}))
  heads = size.pop("num_heads")
  config.model = model_config(
    pattern=("attention", "mlp"),
    positions="learned",
    layers={"attention": {"num_heads": heads}, "mlp": {"activation": "gelu_tanh"}},
    **size,
  )
  return with_mode(config, mode, SIZES)
