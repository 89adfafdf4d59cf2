"""Sentiment by a Transformer that reads both ways, from scratch on SST-2 (Socher et al. 2013).

Its two neighbours have as many parameters and the same settings. Scores of a file:
python launch.py evaluate --workdir=runs/encoder --data=sst2/test.tsv

Run: python launch.py train --config=experiments/sst2/encoder.py \
  --config.data.path=sst2/train.tsv --config.data.validation_path=sst2/dev.tsv
Takes: a minute of two CPU cores, for 800 steps of 578,626 parameters.
Expect: 80.1 % accuracy on test.tsv, 77.9 % on dev.tsv (its majority class: 49.9 %).
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config
from llm_jax.objective import options


def get_config(mode=""):
  config = base()
  config.objective = "classification"
  config.model_from_source = True  # of --config.init_from, if one is given
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
