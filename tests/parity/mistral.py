"""Mistral: cases for parity with transformers' MistralForCausalLM."""

from tests.parity.harness import Case
from tests.parity.llama import TIED

CASES = [
  Case(
    "mistral",  # a window shorter than the text
    "MistralForCausalLM",
    {
      "vocab_size": 53,
      "hidden_size": 24,
      "intermediate_size": 36,
      "num_hidden_layers": 2,
      "num_attention_heads": 4,
      "num_key_value_heads": 2,
      "sliding_window": 5,
    },
  ),
  Case(
    "mistral-options",
    "MistralForCausalLM",
    {
      "vocab_size": 47,
      "hidden_size": 20,
      "intermediate_size": 28,
      "num_hidden_layers": 3,
      "num_attention_heads": 3,
      "num_key_value_heads": 1,
      "head_dim": 10,
      "rms_norm_eps": 1e-3,
      "tie_word_embeddings": True,
      "sliding_window": None,
      "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    draw=TIED,
    length=19,
    padding=9,
  ),
]
