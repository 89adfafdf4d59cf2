"""BART: the Transformer's encoder and decoder, pre-trained (Lewis et al. 2019, arXiv:1910.13461).

Its positions are learned, each stack has a norm behind its embedding, and GELU. The paper restores
whole texts; here, as in T5, the target holds only what was cut out.

Run: python launch.py train --config=experiments/bart.py
Takes: a minute on two CPU cores, for 200 steps of 1,136,128 parameters.
Expect: 2.73 bits per byte of the spans cut out of held-out text, their sentinels included.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

_RELEASED = {"vocab_size": 50_265, "max_length": 1024, "decoder_start_id": 2}
SIZES = {
  "base": {**_RELEASED, "d_model": 768, "repeats": 6, "num_heads": 12},
  "large": {**_RELEASED, "d_model": 1024, "repeats": 12, "num_heads": 16},
}


def get_config(mode=""):
  config = base()
  config.objective = "span_corruption"
  config.tokenizer.vocab_size = 1124  # a hundred of them are sentinels
  config.optimizer.learning_rate = 2e-3
  size = dict(SIZES.get(mode, {"max_length": 256, "repeats": 2, "num_heads": 4}))
  heads = {"num_heads": size.pop("num_heads")}
  config.model = model_config(
    kind="encoder_decoder",
    pattern=("attention", "cross_attention", "mlp"),
    encoder_repeats=size["repeats"],
    positions="learned",
    position_offset=2,
    norm_placement="post",
    final_norm=False,
    embedding_norm=True,
    layers={"attention": heads, "cross_attention": heads, "mlp": {"activation": "gelu"}},
    **size,
  )
  return with_mode(config, mode, SIZES)
