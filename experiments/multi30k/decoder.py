"""Multi30k, English to German, with a decoder alone: the source is the prefix of its translation.

The model has about as many parameters as `encoder_decoder.py`; the English is read both ways.

Run: python launch.py train --config=experiments/multi30k/decoder.py \
  --config.data.path=train.en.gz,train.de.gz --config.data.validation_path=val.en.gz,val.de.gz
Takes: 2.1 seconds of a CPU core for each of its 1,800 steps.
Expect: a loss of 9.3 nats for a piece at first; to its end it has not been trained yet.
"""

from llm_jax import objective
from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.objective = "prefix_answer"
  config.objective_options = objective.options("prefix_answer", label_smoothing=0.1)
  config.steps, config.batch_size, config.seq_len = 1200, 12, 256
  config.tokenizer.vocab_size = 6000
  config.optimizer.update({"learning_rate": 1.5e-3, "b2": 0.98, "weight_decay": 0.01})
  config.schedule.update({"warmup_fraction": 0.08, "final_fraction": 0.0})
  config.eval.every = config.checkpoint.every = 300
  config.model = model_config(
    d_model=256,
    repeats=5,
    dropout_rate=0.2,
    layers={
      "attention": {"num_heads": 4, "positions": "rope"},
      "mlp": {"d_ff": 512, "activation": "relu"},
    },
  )
  return with_mode(config, mode)
