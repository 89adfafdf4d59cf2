"""Mixtral: cases for parity with transformers' MixtralForCausalLM."""

from tests.parity.harness import Case
from tests.parity.llama import TIED

CASES = [
  Case(
    "mixtral",
    "MixtralForCausalLM",
    {
      "vocab_size": 53,
      "hidden_size": 24,
      "intermediate_size": 20,
      "num_hidden_layers": 2,
      "num_attention_heads": 6,
      "num_key_value_heads": 2,
      "num_local_experts": 5,
    },
  ),
  Case(
    "mixtral-options",
    "MixtralForCausalLM",
    {
      "vocab_size": 47,
      "hidden_size": 20,
      "intermediate_size": 28,
      "num_hidden_layers": 1,
      "num_attention_heads": 2,
      "num_key_value_heads": 1,
      "head_dim": 6,
      "hidden_act": "gelu",
      "num_local_experts": 4,
      "num_experts_per_tok": 3,
      "rms_norm_eps": 1e-3,
      "tie_word_embeddings": True,
      "sliding_window": 7,
      "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    draw=TIED,
    length=19,
    padding=9,
  ),
]
