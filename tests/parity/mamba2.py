"""Mamba-2: cases for parity with transformers' Mamba2ForCausalLM."""

from tests.parity.harness import Case
from tests.parity.mamba import DRAW

CASES = [
  Case(
    "mamba2",  # two groups of three heads; two chunks there, one here
    "Mamba2ForCausalLM",
    {
      "vocab_size": 53,
      "hidden_size": 18,
      "state_size": 5,
      "num_hidden_layers": 2,
      "head_dim": 6,
      "num_heads": 6,
      "n_groups": 2,
      "chunk_size": 8,
    },
    draw=DRAW,
  ),
  Case(
    "mamba2-options",
    "Mamba2ForCausalLM",
    {
      "vocab_size": 47,
      "hidden_size": 12,
      "state_size": 3,
      "num_hidden_layers": 2,
      "expand": 3,
      "conv_kernel": 3,
      "head_dim": 4,
      "num_heads": 9,
      "n_groups": 1,
      "use_bias": True,
      "use_conv_bias": False,
      "layer_norm_epsilon": 1e-3,
      "time_step_limit": (0.3, 0.8),
      "residual_in_fp32": False,
      "tie_word_embeddings": True,
    },
    length=19,
    padding=9,
    draw=DRAW,
    greedy=0,  # the reference forgets its step limits when it decodes from a state
  ),
]
