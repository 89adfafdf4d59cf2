"""Multi30k, English to German, with RWKV-7 (Peng et al. 2025, arXiv:2503.14456).

The source is the prefix of its translation, and what is left of it is the state at its end. The
model has about as many parameters as `encoder_decoder.py`.

Run: python launch.py train --config=experiments/multi30k/rwkv.py \
  --config.data.path=train.en.gz,train.de.gz --config.data.validation_path=val.en.gz,val.de.gz
Takes: 58 minutes of CPU time on one core, for 1,000 steps of 5,337,088 parameters:
  3.2 passes over the captions.
Expect: BLEU 28.0 and chrF 51.4 on test_2016_flickr with a beam of 4 (13a, mixed case), by
  python launch.py evaluate --workdir=runs/rwkv --step=best --num-beams=4 \
  --data=test_2016_flickr.en.gz,test_2016_flickr.de.gz
"""

from llm_jax import objective
from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

TIME, CHANNEL = "rwkv7_time_mix", "rwkv7_channel_mix"


def get_config(mode=""):
  config = base()
  config.objective = "prefix_answer"
  config.objective_options = objective.options("prefix_answer", label_smoothing=0.1)
  config.steps, config.batch_size, config.seq_len = 1000, 12, 256
  config.tokenizer.vocab_size = 6000
  config.optimizer.update({"learning_rate": 1.5e-3, "b2": 0.98, "weight_decay": 0.01})
  config.schedule.update({"warmup_fraction": 0.08, "final_fraction": 0.0})
  config.eval.every = config.checkpoint.every = 300
  ranks = {"decay_rank": 16, "rate_rank": 16, "value_rank": 8, "gate_rank": 32}
  config.model = model_config(
    d_model=256,
    pattern=(TIME, CHANNEL),
    repeats=4,
    embedding_norm=True,
    tie_embeddings=False,
    dropout_rate=0.2,
    layers={TIME: {"num_heads": 4, **ranks}, CHANNEL: {"d_ff": 512}},
  )
  return with_mode(config, mode)
