"""Multi30k, English to German, with an encoder-decoder (Vaswani et al. 2017, arXiv:1706.03762).

Norms come first, and positions turn queries and keys. Both languages share one vocabulary, and its
table is the matrix of the logits too. There are 29,000 captions to train on, in 9 passes.

Run: python launch.py train --config=experiments/multi30k/encoder_decoder.py \
  --config.data.path=train.en.gz,train.de.gz --config.data.validation_path=val.en.gz,val.de.gz
Takes: 41 minutes of CPU time, beside other work on two cores, for 2,200 steps of 5,490,688
  parameters.
Expect: BLEU 36.1 and chrF 60.1 on test_2016_flickr with a beam of 4 (13a, mixed case), by
  python launch.py evaluate --workdir=runs/encoder_decoder --step=best --num-beams=4 \
  --data=test_2016_flickr.en.gz,test_2016_flickr.de.gz
"""

from llm_jax import objective
from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.objective = "sequence_to_sequence"
  config.objective_options = objective.options("sequence_to_sequence", label_smoothing=0.1)
  config.steps, config.batch_size, config.seq_len = 2200, 16, 128
  config.tokenizer.vocab_size = 6000
  config.optimizer.update({"learning_rate": 1.5e-3, "b2": 0.98, "weight_decay": 0.01})
  config.schedule.update({"warmup_fraction": 0.08, "final_fraction": 0.0})
  config.eval.every = config.checkpoint.every = 240
  attention = {"num_heads": 4, "positions": "rope"}
  config.model = model_config(
    kind="encoder_decoder",
    d_model=256,
    pattern=("attention", "cross_attention", "mlp"),
    repeats=3,
    encoder_repeats=3,
    dropout_rate=0.2,
    layers={"attention": attention, "mlp": {"d_ff": 512, "activation": "relu"}},
  )
  return with_mode(config, mode)
