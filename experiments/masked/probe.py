"""What an encoder has learned: its body stays as it is, and a linear layer reads a mood off it.

Run: python launch.py train --config=experiments/masked/probe.py \
  --config.data.path=sst2/train.tsv --config.data.validation_path=sst2/dev.tsv \
  --config.init_from=runs/bert_shakespeare --config.model_from_source=True
Takes: a minute of one CPU core.
Expect: 60.0 and 59.1 % on dev.tsv with seeds 0 and 1, and 58.3 and 60.2 % of a body that has
  learned nothing: the mean of random features is a bag of words already, and hard to beat.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config
from llm_jax.objective import options


def get_config(mode=""):
  config = base()
  config.objective = "classification"
  config.objective_options = options("classification", layout="plain", too_long="cut")
  config.freeze = ("embed/.*", "stack/.*")
  config.steps, config.batch_size, config.seq_len = 800, 32, 64
  config.tokenizer.name, config.tokenizer.vocab_size = "wordpiece", 512
  config.optimizer.learning_rate = 3e-3
  config.model = model_config(
    kind="encoder",
    d_model=96,
    repeats=2,
    token_types=2,
    heads=("classification",),
    pooling="mean",
    layers={"attention": {"num_heads": 4, "positions": "rope"}, "mlp": {"activation": "gelu"}},
  )
  return with_mode(config, mode)
