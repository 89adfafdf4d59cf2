"""T5: an encoder-decoder that restores spans cut out of a text (Raffel et al., arXiv:1910.10683).

Positions are one table of relative biases a stack, norms are RMS norms, scores are not scaled, and
the head is the table of tokens. The sizes are those of version 1.0.

Run: python launch.py train --config=experiments/t5.py
Takes: a minute on two CPU cores, for 200 steps of 1,063,168 parameters.
Expect: 2.97 bits per byte of the spans cut out of held-out text, their sentinels included.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

SIZES = {
  "small": {"d_model": 512, "repeats": 6, "num_heads": 8, "d_ff": 2048},
  "base": {"d_model": 768, "repeats": 12, "num_heads": 12, "d_ff": 3072},
  "large": {"d_model": 1024, "repeats": 24, "num_heads": 16, "d_ff": 4096},
  "3b": {"d_model": 1024, "repeats": 24, "num_heads": 32, "head_dim": 128, "d_ff": 16_384},
  "11b": {"d_model": 1024, "repeats": 24, "num_heads": 128, "head_dim": 128, "d_ff": 65_536},
}


def get_config(mode=""):
  config = base()
  config.objective = "span_corruption"
  config.tokenizer.vocab_size = 1124  # a hundred of them are sentinels
  size = {"d_model": 128, "repeats": 2, "num_heads": 4}
  if mode in SIZES:
    size = {"vocab_size": 32_128, **SIZES[mode]}
  heads = {"num_heads": size.pop("num_heads"), "head_dim": size.pop("head_dim", 0)}
  attention = {**heads, "use_bias": False, "query_scale": 1.0}
  config.model = model_config(
    kind="encoder_decoder",
    pattern=("attention", "cross_attention", "mlp"),
    encoder_repeats=size["repeats"],
    positions="relative",
    norm="rmsnorm",
    norm_epsilon=1e-6,
    logit_scale=size["d_model"] ** -0.5,
    layers={
      "attention": {**attention, "out_bias": False},
      "cross_attention": attention,
      "mlp": {"activation": "relu", "use_bias": False, "d_ff": size.pop("d_ff", 0)},
    },
    **size,
  )
  return with_mode(config, mode, SIZES)
