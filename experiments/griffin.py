"""Griffin: gated linear recurrences and local attention, two to one (arXiv:2402.19427).

Modes 2b and 9b are RecurrentGemma's sizes (Botev et al. 2024, arXiv:2404.07839).

Run: python launch.py train --config=experiments/griffin.py
Takes: 2 minutes on two CPU cores, for 200 steps of 1,247,392 parameters.
Expect: 2.37 bits per byte of held-out text.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config

_RECURRENT = ("rglru", "mlp", "rglru", "mlp")
_PATTERN = (*_RECURRENT, "attention", "mlp")
_SMALL = {"repeats": 2, "num_heads": 4, "window": 64}
_TINY = {"pattern": _PATTERN[2:], "num_heads": 4, "window": 8}  # compiles in two thirds of the time
SIZES = {
  "2b": {
    "vocab_size": 256_000,
    "d_model": 2560,
    "stages": ((_PATTERN, 8), (_RECURRENT, 1)),
    "num_heads": 10,
    "d_ff": 7680,
  },
  "9b": {
    "vocab_size": 256_000,
    "d_model": 4096,
    "stages": ((_PATTERN, 12), (_RECURRENT, 1)),
    "num_heads": 16,
    "d_ff": 12_288,
  },
}


def get_config(mode=""):
  config = base()
  config.model = _model(**{**SIZES, "tiny": _TINY}.get(mode, _SMALL))
  return with_mode(config, mode, SIZES)


def _model(num_heads, pattern=_PATTERN, window=2048, d_ff=0, **size):
  attention = {
    "num_heads": num_heads,
    "num_kv_heads": 1,
    "positions": "rope",
    "rope_fraction": 0.5,
    "window": window,
    "use_bias": False,
  }
  return model_config(
    pattern=pattern,
    norm="rmsnorm_plus_one",
    norm_epsilon=1e-6,
    embedding_scale=True,
    embedding_scale_dtype="bfloat16",
    logit_soft_cap=30.0,
    layers={
      "rglru": {"blocks": num_heads},
      "attention": attention,
      "mlp": {"d_ff": d_ff, "activation": "geglu_tanh"},
    },
    **size,
  )
