"""Qwen2: cases for parity with transformers' Qwen2ForCausalLM."""

from tests.parity.harness import Case
from tests.parity.llama import TIED

CASES = [
  Case(
    "qwen2",
    "Qwen2ForCausalLM",
    {
      "vocab_size": 53,
      "hidden_size": 24,
      "intermediate_size": 36,
      "num_hidden_layers": 2,
      "num_attention_heads": 6,
      "num_key_value_heads": 2,
    },
  ),
  Case(
    "qwen2-windows",  # shorter than the text, in the last two of three layers
    "Qwen2ForCausalLM",
    {
      "vocab_size": 47,
      "hidden_size": 20,
      "intermediate_size": 28,
      "num_hidden_layers": 3,
      "num_attention_heads": 2,
      "num_key_value_heads": 1,
      "rms_norm_eps": 1e-3,
      "tie_word_embeddings": True,
      "use_sliding_window": True,
      "sliding_window": 5,
      "max_window_layers": 1,
      "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    draw=TIED,
    length=19,
    padding=9,
  ),
]
