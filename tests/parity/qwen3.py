"""Qwen3: cases for parity with transformers' Qwen3ForCausalLM."""

from tests.parity.harness import Case
from tests.parity.llama import TIED

CASES = [
  Case(
    "qwen3",
    "Qwen3ForCausalLM",
    {
      "vocab_size": 53,
      "hidden_size": 24,
      "intermediate_size": 36,
      "num_hidden_layers": 2,
      "num_attention_heads": 4,
      "num_key_value_heads": 2,
      "head_dim": 10,
    },
  ),
  Case(
    "qwen3-options",
    "Qwen3ForCausalLM",
    {
      "vocab_size": 47,
      "hidden_size": 20,
      "intermediate_size": 28,
      "num_hidden_layers": 3,
      "num_attention_heads": 3,
      "num_key_value_heads": 1,
      "head_dim": 6,
      "rms_norm_eps": 1e-2,
      "attention_bias": True,
      "tie_word_embeddings": True,
      "use_sliding_window": True,
      "sliding_window": 4,
      "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    draw=TIED,
    length=19,
    padding=9,
  ),
]
