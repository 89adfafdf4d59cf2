"""Mamba: cases for parity with transformers' MambaForCausalLM."""

from tests.parity.harness import Case

# Decays and skips of every size, step sizes from small to large.
DRAW = {
  r"\.A_log$": (0.5, 0.7),
  r"\.D$": (0.5, 0.5),
  r"dt_proj\.bias|dt_bias": (-0.5, 1.0),
}
CASES = [
  Case(
    "mamba",
    "MambaForCausalLM",
    {
      "vocab_size": 53,
      "hidden_size": 20,  # no multiple of 16: the rank is rounded up
      "state_size": 5,
      "num_hidden_layers": 3,
    },
    draw=DRAW,
  ),
  Case(
    "mamba-options",
    "MambaForCausalLM",
    {
      "vocab_size": 47,
      "hidden_size": 14,
      "state_size": 3,
      "num_hidden_layers": 2,
      "expand": 3,
      "conv_kernel": 3,
      "time_step_rank": 5,
      "use_bias": True,
      "use_conv_bias": False,
      "layer_norm_epsilon": 1e-3,
      "residual_in_fp32": False,
      "tie_word_embeddings": False,
    },
    length=19,
    padding=9,
    draw=DRAW,
  ),
]
