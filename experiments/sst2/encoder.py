"""Sentiment of sentences by a Transformer that reads both ways, from scratch (SST-2).

Run: python launch.py train --config=experiments/sst2/encoder.py --config.data.path=sst2/train.tsv
Takes:
Expect: 0.0
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config
from llm_jax.objective import options


def get_config(mode=""):
  config = base()
  config.objective = "classification"
  config.objective_options = options("classification", layout="plain", token_dropout=0.2)
  config.steps, config.batch_size, config.seq_len = 800, 32, 56
  config.eval.every = 200
  config.tokenizer.name, config.tokenizer.vocab_size = "word", 8192
  config.optimizer.learning_rate = 3e-3
  config.model = model_config(
    kind="encoder",
    heads=("classification",),
    pooling="mean",
    d_model=64,
    pattern=("attention", "mlp"),
    repeats=1,
    positions="learned",
    max_length=64,
    dropout_rate=0.3,
    layers={"attention": {"num_heads": 4}, "mlp": {"activation": "gelu"}},
  )
  return with_mode(config, mode)
