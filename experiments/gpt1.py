"""GPT-1: learned positions, layer norm after each layer, none at the end (Radford et al. 2018).

The one published size is 117m.

Run: python launch.py train --config=experiments/gpt1.py
Takes: a minute of one CPU core, for 200 steps of 956,928 parameters.
Expect: 2.70 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

SIZES = {
  "117m": {"vocab_size": 40478, "max_length": 512, "d_model": 768, "repeats": 12, "num_heads": 12}
}


def get_config(mode=""):
  config = base()
  config.optimizer.learning_rate = 2e-3
  size = dict(SIZES.get(mode, {"max_length": 256, "repeats": 4, "num_heads": 4}))
  heads = size.pop("num_heads")
  config.model = model_config(
    pattern=("attention", "mlp"),
    positions="learned",
    norm_placement="post",
    final_norm=False,
    layers={"attention": {"num_heads": heads}, "mlp": {"activation": "gelu_tanh"}},
    **size,
  )
  return with_mode(config, mode, SIZES)
