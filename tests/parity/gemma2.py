"""Gemma 2: cases for parity with transformers' Gemma2ForCausalLM."""

from tests.parity.gemma import NORMS, TIED
from tests.parity.harness import Case

CASES = [
  Case(
    "gemma2",  # caps low enough to bend, a window shorter than the text
    "Gemma2ForCausalLM",
    {
      "vocab_size": 53,
      "hidden_size": 24,
      "num_hidden_layers": 3,  # no multiple of the two layers of the pattern
      "num_attention_heads": 4,
      "num_key_value_heads": 2,
      "head_dim": 10,
      "intermediate_size": 36,
      "query_pre_attn_scalar": 7,
      "attn_logit_softcapping": 1.5,
      "final_logit_softcapping": 4.0,
      "sliding_window": 5,
    },
    draw=TIED,
    scale=2.0,
  ),
  Case(
    "gemma2-options",
    "Gemma2ForCausalLM",
    {
      "vocab_size": 47,
      "hidden_size": 30,
      "num_hidden_layers": 4,
      "num_attention_heads": 3,
      "num_key_value_heads": 1,
      "head_dim": 6,
      "intermediate_size": 28,
      "hidden_activation": "silu",
      "rms_norm_eps": 1e-3,
      "attention_bias": True,
      "query_pre_attn_scalar": 6,
      "attn_logit_softcapping": None,
      "final_logit_softcapping": None,
      "sliding_window": 3,
      "layer_types": [
        "sliding_attention",
        "sliding_attention",
        "full_attention",
        "sliding_attention",
      ],
      "tie_word_embeddings": False,
      "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    draw=NORMS,
    length=19,
    padding=9,
  ),
]
