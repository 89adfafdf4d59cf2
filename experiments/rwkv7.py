"""RWKV-7, Goose: a state edited by the generalised delta rule (Peng et al. 2025, arXiv:2503.14456).

The sizes are those of the World models. Their first layer has no maps to mix values by, so it is a
stage of its own; in the small model it has them, unused, and `model.repeats` alone sets the depth.

Run: python launch.py train --config=experiments/rwkv7.py
Takes: 3 minutes of one CPU core, for 200 steps of 1,116,160 parameters.
Expect: 2.16 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

TIME, FIRST, CHANNEL = "rwkv7_time_mix", "rwkv7_first_time_mix", "rwkv7_channel_mix"
# Width, layers, and the ranks of the maps to decays and rates, to values, to gates.
SIZES = {
  "0b1": (768, 12, 64, 32, 128),
  "0b4": (1024, 24, 64, 32, 128),
  "1b5": (2048, 24, 96, 64, 256),
  "2b9": (2560, 32, 96, 64, 320),
}


def get_config(mode=""):
  config = base()
  if mode in SIZES:
    width, layers, *ranks = SIZES[mode]
    stages = (((FIRST, CHANNEL), 1), ((TIME, CHANNEL), layers - 1))
    first = {FIRST: {"type": TIME, "value_rank": 0}}
    config.model = _model(width, *ranks, first, stages=stages, vocab_size=65536)
  else:
    config.model = _model(128, 16, 8, 16, {}, pattern=(TIME, CHANNEL), repeats=4)
  return with_mode(config, mode, SIZES)


def _model(d_model, rank, value_rank, gate_rank, first, **depth):
  ranks = {"decay_rank": rank, "rate_rank": rank, "value_rank": value_rank, "gate_rank": gate_rank}
  return model_config(
    d_model=d_model,
    embedding_norm=True,
    tie_embeddings=False,
    layers={TIME: {"num_heads": d_model // 64, **ranks}, **first},
    **depth,
  )
