"""GPT-2: cases for parity with transformers' GPT2LMHeadModel."""

from tests.parity.harness import Case

CASES = [
  Case(
    "gpt2",
    "GPT2LMHeadModel",
    {"vocab_size": 53, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 80},
  ),
  Case(
    "gpt2-options",
    "GPT2LMHeadModel",
    {
      "vocab_size": 47,
      "n_embd": 20,
      "n_layer": 3,
      "n_head": 2,
      "n_positions": 72,
      "n_inner": 36,
      "activation_function": "relu",
      "scale_attn_weights": False,
      "layer_norm_epsilon": 1e-3,
      "tie_word_embeddings": False,
    },
    length=17,
    padding=9,
  ),
]
