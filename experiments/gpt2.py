"""GPT-2: learned positions, layer norm before each layer, GELU (Radford et al. 2019).

Run: python launch.py train --config=experiments/gpt2.py
Takes: a minute on two CPU cores, for 200 steps of 957,184 parameters.
Expect: 2.48 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.model = model_config(
    pattern=("attention", "mlp"),
    repeats=4,
    positions="learned",
    max_length=256,
    layers={"attention": {"num_heads": 4}, "mlp": {"activation": "gelu_tanh"}},
  )
  return with_mode(config, mode)
