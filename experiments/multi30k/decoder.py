"""Multi30k, English to German, with a decoder alone: the source is the prefix of its translation.

The English is read both ways. The budget is about the CPU time that `encoder_decoder.py` takes.

Run: python launch.py train --config=experiments/multi30k/decoder.py \
  --config.data.path=train.en.gz,train.de.gz --config.data.validation_path=val.en.gz,val.de.gz
Takes: 40 minutes of CPU time on one core, for 1,200 steps of 4,172,032 parameters:
  3.9 passes over the captions.
Expect: BLEU 26.9 and chrF 51.0 on test_2016_flickr with a beam of 4 (13a, mixed case), by
  python launch.py evaluate --workdir=runs/decoder --step=best --num-beams=4 \
  --data=test_2016_flickr.en.gz,test_2016_flickr.de.gz
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
