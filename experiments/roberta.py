"""RoBERTa: BERT without its second task, on more text (Liu et al. 2019, arXiv:1907.11692).

Run: python launch.py train --config=experiments/roberta.py
Takes: a minute of one CPU core, for 200 steps of 975,360 parameters.
Expect: 3.31 bits per byte of the hidden tokens of held-out text: how frequent each token is.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

SIZES = {
  "base": {"d_model": 768, "repeats": 12, "num_heads": 12},
  "large": {"d_model": 1024, "repeats": 24, "num_heads": 16},
}
_PUBLISHED = {"vocab_size": 50_265, "max_length": 512}


def get_config(mode=""):
  config = base()
  config.objective = "masked_lm"
  config.optimizer.learning_rate = 1e-3
  size = {"d_model": 128, "repeats": 4, "num_heads": 4, "max_length": 256}
  if mode in SIZES:
    size = SIZES[mode] | _PUBLISHED
  num_heads = size.pop("num_heads")
  config.model = model_config(
    kind="encoder",
    pattern=("attention", "mlp"),
    positions="learned",
    position_offset=2,  # the rows of the published table that stand for no position
    token_types=1,
    norm_placement="post",
    final_norm=False,
    embedding_norm=True,
    heads=("masked_lm",),
    head_bias=True,
    layers={"attention": {"num_heads": num_heads}, "mlp": {"activation": "gelu"}},
    **size,
  )
  return with_mode(config, mode, SIZES)
