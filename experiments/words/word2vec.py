"""word2vec: skip-gram with negative sampling (Mikolov et al. 2013, arXiv:1310.4546).

Run: python launch.py train --config=experiments/words/word2vec.py --config.data.path=kjv.txt.gz
Takes: seven minutes beside other work on two CPU cores, for 1000 steps of 1,638,400 parameters.
Expect: loss 2.505 on held-out text. gold: brass, silver, pure; horses: horsemen, chariots, ride;
  mother: wife, brother, sister (python launch.py evaluate --workdir=runs/word2vec --words=gold).
  Of the ten nearest neighbours of 300 frequent words, 33 % are gensim's of the same settings; two
  seeds of gensim share 62 % (python -m benchmarks.word_vectors --workdir=runs/word2vec).
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
