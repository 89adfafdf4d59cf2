"""Entities in noisy text by a Transformer that reads both ways, from scratch (WNUT-17).

Run: python launch.py train --config=experiments/ner/wnut17.py \
  --config.data.path=wnut17train.conll --config.data.validation_path=emerging.dev.conll
Takes: 
Expect: 0.0
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config
from llm_jax.objective import options


def get_config(mode=""):
  config = base()
  config.objective = "token_classification"
  config.objective_options = options("token_classification", layout="plain", too_long="cut")
  config.steps, config.batch_size, config.seq_len = 800, 32, 96
  config.eval.every = 200
  config.tokenizer.vocab_size = 2048
  config.optimizer.learning_rate = 2e-3
  config.model = model_config(
    kind="encoder",
    heads=("token_classification",),
    d_model=96,
    pattern=("attention", "mlp"),
    repeats=2,
    dropout_rate=0.3,
    layers={"attention": {"num_heads": 4, "positions": "rope"}, "mlp": {"activation": "gelu"}},
  )
  return with_mode(config, mode)
