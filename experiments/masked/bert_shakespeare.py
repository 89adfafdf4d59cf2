"""BERT's two tasks on one text: hidden words, and whether a passage goes on (arXiv:1810.04805).

Positions turn queries and keys: with learned ones 600 steps only tell how frequent pieces are.

Run: python launch.py train --config=experiments/masked/bert_shakespeare.py \
  --config.data.path=plays.txt --config.data.validation_path=held_out.txt
Data: head -n 36000 tinyshakespeare/input.txt > plays.txt
  tail -n 4000 tinyshakespeare/input.txt > held_out.txt
Takes: five minutes of CPU time, for 2,400 steps of 292,226 parameters.
Expect: 28.1 % of hidden pieces and 83.3 % of next sentences told right in the plays held out.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config
from llm_jax.objective import options


def get_config(mode=""):
  config = base()
  config.objective = "masked_lm_next_sentence"
  config.objective_options = options("masked_lm_next_sentence", whole_words=True)
  config.steps, config.eval.every = 2400, 400
  config.seq_len = 64
  config.tokenizer.name, config.tokenizer.vocab_size = "wordpiece", 512
  config.optimizer.learning_rate = 2e-3
  config.model = model_config(
    kind="encoder",
    d_model=96,
    repeats=2,
    token_types=2,
    heads=("masked_lm", "next_sentence"),
    layers={"attention": {"num_heads": 4, "positions": "rope"}, "mlp": {"activation": "gelu"}},
  )
  return with_mode(config, mode)
