"""BART's objective on one text: spans are hidden, sentences moved, and all of it is written again.

Run: python launch.py train --config=experiments/denoising/bart.py \
  --config.data.path=tinyshakespeare/input.txt
Takes: thirteen minutes beside other work on two CPU cores, for 1000 steps of 310,240 parameters.
Expect: 2.33 bits per byte of held-out text after 500 steps and 2.17 after 723, from 2.67 after 250.
  By then it copies single words and the names of speakers.

Source: Lewis et al. 2019, arXiv:1910.13461, section 2.2.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config
from llm_jax.objective import options


def get_config(mode=""):
  config = base()
  config.objective = "denoising"
  config.objective_options = options("denoising")
  config.steps, config.seq_len, config.eval.every = 1000, 64, 250
  config.tokenizer.vocab_size = 512
  config.model = model_config(
    kind="encoder_decoder",
    d_model=96,
    pattern=("attention", "cross_attention", "mlp"),
    repeats=1,
    encoder_repeats=1,
    positions="relative",
    norm="rmsnorm",
    layers={"mlp": {"activation": "gelu"}},
  )
  return with_mode(config, mode)
