"""Entities in noisy text by a Transformer that knows no other text (WNUT-17).

Run: python launch.py train --config=experiments/ner/from_scratch.py \
  --config.data.path=wnut17train.conll --config.data.validation_path=emerging.dev.conll
Takes: 3 minutes of one CPU core, for 800 steps of 421,741 parameters.
Expect: entity F1 of 11.9 % on emerging.test.conll (each word's most frequent tag: 2.5 %), by
  python launch.py evaluate --workdir=runs/from_scratch --data=emerging.test.conll
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
