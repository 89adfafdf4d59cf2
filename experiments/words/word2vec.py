"""word2vec: skip-gram with negative sampling (Mikolov et al. 2013, arXiv:1310.4546).

Run: python launch.py train --config=experiments/words/word2vec.py --config.data.path=kjv.txt.gz
Takes: two minutes of one CPU core.
Expect: 0.0
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config
from llm_jax.objective import options


def get_config(mode=""):
  config = base()
  config.objective = "word2vec"
  config.objective_options = options("word2vec")
  config.steps, config.batch_size = 1000, 16
  config.tokenizer.name, config.tokenizer.vocab_size = "word", 8192
  config.optimizer.name, config.optimizer.learning_rate = "adam", 5e-3
  config.schedule.name, config.schedule.final_fraction = "linear", 0.01
  config.data.validation_fraction = 0.01
  config.model = model_config(kind="word_vectors", heads=("context",), pattern=(), d_model=100)
  return with_mode(config, mode)
