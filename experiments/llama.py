"""Llama: rotary positions, RMS norm, SwiGLU, no biases (Touvron et al. 2023, arXiv:2302.13971).

The sizes are the released ones of Llama 1 ("7b" to "65b"), 2 ("2-7b", "2-13b", "70b"; Touvron et
al. 2023, arXiv:2307.09288) and 3 ("8b", "3-70b", "3.1-8b" to "3.2-3b"; Grattafiori et al. 2024,
arXiv:2407.21783).

Run: python launch.py train --config=experiments/llama.py
Takes: a minute on two CPU cores, for 200 steps of 1,053,824 parameters.
Expect: 2.30 bits per byte of held-out text.
Sweep: python launch.py sweep --config=experiments/llama.py
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config
from llm_jax.sweeps.space import log_uniform, product, zipped

_1 = {"vocab_size": 32_000, "norm_epsilon": 1e-6, "max_length": 2048}
_2 = {"vocab_size": 32_000, "norm_epsilon": 1e-5, "max_length": 4096}
_3 = {"vocab_size": 128_256, "num_kv_heads": 8, "rope_base": 5e5, "max_length": 8192}
_31 = {**_3, "max_length": 131_072, "rope_scaling": ("llama3", 8.0, 1.0, 4.0, 8192)}
_32 = {**_31, "rope_scaling": ("llama3", 32.0, 1.0, 4.0, 8192), "tie_embeddings": True}

_7B = {"d_model": 4096, "repeats": 32, "num_heads": 32, "d_ff": 11_008}
_8B = {"d_model": 4096, "repeats": 32, "num_heads": 32, "d_ff": 14_336}
_13B = {"d_model": 5120, "repeats": 40, "num_heads": 40, "d_ff": 13_824}
_70B = {"d_model": 8192, "repeats": 80, "num_heads": 64, "d_ff": 28_672}

SIZES = {
  "7b": {**_1, **_7B},
  "13b": {**_1, **_13B},
  "30b": {**_1, "d_model": 6656, "repeats": 60, "num_heads": 52, "d_ff": 17_920},
  "65b": {**_1, "d_model": 8192, "repeats": 80, "num_heads": 64, "d_ff": 22_016},
  "2-7b": {**_2, **_7B},
  "2-13b": {**_2, **_13B},
  "70b": {**_2, **_70B, "num_kv_heads": 8},
  "8b": {**_3, **_8B},
  "3-70b": {**_3, **_70B},
  "3.1-8b": {**_31, **_8B},
  "3.1-70b": {**_31, **_70B},
  "3.1-405b": {**_31, "d_model": 16_384, "repeats": 126, "num_heads": 128, "d_ff": 53_248},
  "3.2-1b": {**_32, "d_model": 2048, "repeats": 16, "num_heads": 32, "d_ff": 8192},
  "3.2-3b": {**_32, "d_model": 3072, "repeats": 28, "num_heads": 24, "d_ff": 8192},
}
_ATTENTION = ("num_heads", "num_kv_heads", "rope_base", "rope_scaling")


def get_config(mode=""):
  config = base()
  size = dict(SIZES.get(mode, {"repeats": 4, "num_heads": 4}))
  attention = {name: size.pop(name) for name in _ATTENTION if name in size}
  config.model = model_config(
    **{
      "pattern": ("attention", "mlp"),
      "norm": "rmsnorm",
      "tie_embeddings": False,
      "layers": {
        "attention": {"positions": "rope", "use_bias": False, "out_bias": False, **attention},
        "mlp": {"activation": "swiglu", "use_bias": False, "d_ff": size.pop("d_ff", 0)},
      },
      **size,
    }
  )
  return with_mode(config, mode, SIZES)


def sweep():
  # The learning rate for each shape: wide and shallow, or narrow and deep.
  return product(
    zipped({"model.d_model": [176, 128, 88]}, {"model.repeats": [2, 4, 8]}),
    {"optimizer.learning_rate": log_uniform(1e-3, 8e-3, points=4)},
  )
