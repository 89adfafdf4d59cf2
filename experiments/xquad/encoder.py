"""XQuAD, English questions on Wikipedia's paragraphs, with an encoder from scratch.

A fifth of the paragraphs is held out (Artetxe et al. 2020, arXiv:1910.11856). A thousand questions
teach no language: this is what `pretrained.py` is compared with.

Run: python launch.py train --config=experiments/xquad/encoder.py --config.data.path=xquad.en.json
Takes: 3 minutes beside other work on two CPU cores, for 300 steps of 909,314 parameters.
Expect: 0.4 % exact match and 4.4 % F1, hardly more than spans drawn at random (0.02 % and 4.4 %).
"""

from llm_jax import objective
from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.objective = "question_answering"
  config.objective_options = objective.options("question_answering", too_long="cut")
  config.steps, config.batch_size, config.seq_len = 300, 16, 192
  config.data.validation_fraction = 0.2
  config.tokenizer.update({"name": "wordpiece", "vocab_size": 4000})
  config.optimizer.update({"learning_rate": 1e-3, "b2": 0.98, "weight_decay": 0.01})
  config.schedule.update({"name": "linear", "warmup_fraction": 0.1, "final_fraction": 0.0})
  config.eval.every = config.checkpoint.every = 100
  config.model = model_config(
    kind="encoder",
    d_model=128,
    repeats=2,
    token_types=2,
    dropout_rate=0.1,
    heads=("span",),
    layers={"attention": {"num_heads": 4, "positions": "rope"}},
  )
  return with_mode(config, mode)
