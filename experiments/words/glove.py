"""GloVe: vectors from counts of co-occurrence (Pennington et al. 2014).

Run: python launch.py train --config=experiments/words/glove.py --config.data.path=kjv.txt.gz
Takes: six minutes beside other work on two CPU cores, for 900 steps.
Expect: a training loss of 0.059. gold: silver, pure, beaten; bread: eat, drink, unleavened; mother:
  father, daughter (python launch.py evaluate --workdir=runs/glove --words=gold,bread,mother).
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config
from llm_jax.objective import options


def get_config(mode=""):
  config = base()
  config.objective = "glove"
  config.objective_options = options("glove", x_max=10.0)
  config.steps, config.batch_size, config.seq_len = 900, 16, 1024  # pairs of words
  config.tokenizer.name, config.tokenizer.vocab_size = "word", 8192
  config.optimizer.name, config.optimizer.learning_rate = "adagrad", 0.05
  config.optimizer.weight_decay = 0.0
  config.schedule.name, config.schedule.warmup_fraction = "constant", 0.0
  config.data.validation_fraction = 0.01
  config.model = model_config(
    kind="word_vectors", heads=("context",), pattern=(), d_model=100, head_bias=True
  )
  return with_mode(config, mode)
