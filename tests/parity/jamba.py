"""Jamba: cases for parity with transformers' JambaForCausalLM."""

from tests.parity.harness import Case
from tests.parity.mamba import DRAW

CASES = [
  Case(
    "jamba",  # a cycle of two layers, twice
    "JambaForCausalLM",
    {
      "vocab_size": 53,
      "hidden_size": 20,
      "intermediate_size": 28,
      "num_hidden_layers": 4,
      "num_attention_heads": 4,
      "num_key_value_heads": 2,
      "attn_layer_period": 2,
      "attn_layer_offset": 1,
      "expert_layer_period": 2,
      "expert_layer_offset": 1,
      "num_experts": 4,
      "num_experts_per_tok": 2,
      "mamba_d_state": 5,
    },
    draw=DRAW,
  ),
  Case(
    "jamba-options",  # a cycle of two layers, and one more
    "JambaForCausalLM",
    {
      "vocab_size": 47,
      "hidden_size": 12,
      "intermediate_size": 20,
      "num_hidden_layers": 3,
      "num_attention_heads": 3,
      "num_key_value_heads": 1,
      "attn_layer_period": 2,
      "attn_layer_offset": 0,
      "expert_layer_period": 2,
      "expert_layer_offset": 1,
      "num_experts": 5,
      "num_experts_per_tok": 3,
      "rms_norm_eps": 1e-3,
      "mamba_d_state": 3,
      "mamba_d_conv": 3,
      "mamba_expand": 3,
      "mamba_dt_rank": 5,
      "mamba_conv_bias": False,
      "mamba_proj_bias": True,
      "tie_word_embeddings": True,
    },
    length=19,
    padding=9,
    draw=DRAW | {"embed_tokens": (0.0, 0.1)},  # tied: larger ones would repeat their token
  ),
]
