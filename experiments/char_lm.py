"""A language model of single characters, or `:byte`, of bytes: a small Llama.

--config.data.path=my.txt is another text. Neither tokenizer is trained to cut it, so its bits per
byte compare with those of any text model; an order-2 byte model of the embedded text needs 2.97.

Run: python launch.py train --config=experiments/char_lm.py
Takes: 2 minutes of CPU time, for 400 steps of 346,464 parameters.
Expect: 2.44 bits per byte of held-out text; 2.42 with `:byte`.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

TOKENIZERS = ("char", "byte")


def get_config(mode=""):
  config = base()
  config.tokenizer.name = mode if mode in TOKENIZERS else "char"
  config.steps, config.seq_len = 400, 128
  config.eval.every = 100
  config.model = model_config(
    d_model=96,
    repeats=3,
    norm="rmsnorm",
    layers={"attention": {"positions": "rope"}, "mlp": {"activation": "swiglu"}},
  )
  return with_mode(config, mode, TOKENIZERS)
