"""RecurrentGemma: cases for parity with transformers' RecurrentGemmaForCausalLM."""

from tests.parity.harness import Case

# Norms are stored minus one; decays lie between forgetting in a token and in hundreds.
_DRAW = {"norm.weight": (0.0, 0.2), "recurrent_param": (-2.5, 1.5)}
# Small embeddings: or, tied and scaled, they would have each token predict itself.
_TIED = _DRAW | {"embed_tokens": (0.0, 0.1)}

CASES = [
  Case(
    "recurrent-gemma",
    "RecurrentGemmaForCausalLM",
    {
      "vocab_size": 53,
      "hidden_size": 24,  # its root is rounded to bfloat16
      "intermediate_size": 40,
      "num_hidden_layers": 5,
      "num_attention_heads": 3,
      "num_key_value_heads": 1,
      "attention_window_size": 6,
    },
    draw=_TIED,
  ),
  Case(
    "recurrent-gemma-options",
    "RecurrentGemmaForCausalLM",
    {
      "vocab_size": 47,
      "hidden_size": 16,
      "lru_width": 24,
      "intermediate_size": 44,
      "num_hidden_layers": 4,
      "num_attention_heads": 4,
      "num_key_value_heads": 2,
      "head_dim": 8,
      "attention_window_size": 4,
      "attention_bias": True,
      "conv1d_width": 3,
      "block_types": ["attention", "recurrent"],
      "logits_soft_cap": 5.0,
      "rms_norm_eps": 1e-3,
      "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 100.0,
        "partial_rotary_factor": 0.75,
      },
      "tie_word_embeddings": False,
    },
    draw=_DRAW,
    length=17,
    padding=9,
  ),
]
