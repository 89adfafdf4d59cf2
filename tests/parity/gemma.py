"""Gemma: cases for parity with transformers' GemmaForCausalLM."""

from tests.parity.harness import Case

NORMS = {"norm.weight": (0.0, 0.3)}  # stored minus one
# Small embeddings: or, tied and scaled, they would have each token predict itself.
TIED = NORMS | {"embed_tokens": (0.0, 0.1)}

CASES = [
  Case(
    "gemma",  # one head of keys and values, heads wider together than the model
    "GemmaForCausalLM",
    {
      "vocab_size": 53,
      "hidden_size": 20,
      "num_hidden_layers": 2,
      "num_attention_heads": 3,
      "num_key_value_heads": 1,
      "head_dim": 10,
      "intermediate_size": 36,
    },
    draw=TIED,
    scale=1.5,
  ),
  Case(
    "gemma-options",
    "GemmaForCausalLM",
    {
      "vocab_size": 47,
      "hidden_size": 24,
      "num_hidden_layers": 3,
      "num_attention_heads": 4,
      "num_key_value_heads": 2,
      "head_dim": 4,
      "intermediate_size": 28,
      "hidden_act": "silu",
      "rms_norm_eps": 1e-3,
      "attention_bias": True,
      "tie_word_embeddings": False,
      "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0},
    },
    draw=NORMS,
    length=17,
    padding=9,
  ),
]
