"""The original Transformer: sines and cosines, norms behind each layer (Vaswani et al. 2017).

The sizes are the paper's (arXiv:1706.03762, table 3, with its vocabulary of about 37,000 pieces),
and "opus-mt", that of the Marian models trained since (Tiedemann & Thottingal 2020), from which the
bias of the logits is taken. The paper translates; here, as T5 does, the model restores spans cut
out of a text.

Run: python launch.py train --config=experiments/transformer.py
Takes: a minute of one CPU core, for 200 steps of 1,070,692 parameters.
Expect: 2.75 bits per byte of the spans cut out of held-out text, their sentinels included.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

SIZES = {
  "base": {"vocab_size": 37_000, "d_model": 512, "repeats": 6, "num_heads": 8},
  "big": {"vocab_size": 37_000, "d_model": 1024, "repeats": 6, "num_heads": 16},
  "opus-mt": {
    "vocab_size": 58_101,
    "d_model": 512,
    "repeats": 6,
    "num_heads": 8,
    "activation": "silu",
    "max_length": 512,
    "decoder_start_id": 58_100,
  },
}


def get_config(mode=""):
  config = base()
  config.objective = "span_corruption"
  config.tokenizer.vocab_size = 1124  # a hundred of them are sentinels
  config.optimizer.learning_rate = 2e-3
  size = dict(SIZES.get(mode, {"repeats": 2, "num_heads": 4}))
  heads = {"num_heads": size.pop("num_heads")}
  config.model = model_config(
    kind="encoder_decoder",
    pattern=("attention", "cross_attention", "mlp"),
    encoder_repeats=size["repeats"],
    positions="sinusoidal_halves",
    norm_placement="post",
    final_norm=False,
    embedding_scale=True,
    head_bias=True,
    layers={
      "attention": heads,
      "cross_attention": heads,
      "mlp": {"activation": size.pop("activation", "relu")},
    },
    **size,
  )
  return with_mode(config, mode, SIZES)
