"""DistilBERT: BERT with half the layers and no token types (Sanh et al. 2019, arXiv:1910.01108).

Trained from scratch here; the published one was taught by BERT.

Run: python launch.py train --config=experiments/distilbert.py
Takes: a minute of one CPU core, for 200 steps of 974,976 parameters.
Expect: 3.31 bits per byte of the hidden tokens of held-out text: how frequent each token is.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

SIZES = {
  "base": {"d_model": 768, "repeats": 6, "num_heads": 12, "max_length": 512, "vocab_size": 30_522}
}


def get_config(mode=""):
  config = base()
  config.objective = "masked_lm"
  config.optimizer.learning_rate = 1e-3
  small = {"d_model": 128, "repeats": 4, "num_heads": 4, "max_length": 256}
  size = dict(SIZES.get(mode, small))
  num_heads = size.pop("num_heads")
  config.model = model_config(
    kind="encoder",
    pattern=("attention", "mlp"),
    positions="learned",
    norm_placement="post",
    norm_epsilon=1e-12,
    final_norm=False,
    embedding_norm=True,
    heads=("masked_lm",),
    head_bias=True,
    layers={"attention": {"num_heads": num_heads}, "mlp": {"activation": "gelu"}},
    **size,
  )
  return with_mode(config, mode, SIZES)
