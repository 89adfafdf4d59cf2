"""Llama: cases for parity with transformers' LlamaForCausalLM."""

from tests.parity.harness import Case

# Small embeddings: or, tied, they would have each token predict itself.
TIED = {"embed_tokens": (0.0, 0.1)}

TRAINED = "stories260K"
CASES = [
  Case(
    "llama",  # grouped heads
    "LlamaForCausalLM",
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
    "llama-options",  # frequencies on both sides of the scaling's bounds
    "LlamaForCausalLM",
    {
      "vocab_size": 47,
      "hidden_size": 30,
      "intermediate_size": 28,
      "num_hidden_layers": 3,
      "num_attention_heads": 3,
      "num_key_value_heads": 1,
      "head_dim": 16,
      "hidden_act": "gelu",
      "rms_norm_eps": 1e-3,
      "attention_bias": True,
      "mlp_bias": True,
      "tie_word_embeddings": True,
      "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
      },
    },
    draw=TIED,
    length=19,
    padding=9,
  ),
  Case(
    "llama-linear",
    "LlamaForCausalLM",
    {
      "vocab_size": 31,
      "hidden_size": 16,
      "intermediate_size": 20,
      "num_hidden_layers": 1,
      "num_attention_heads": 2,
      "rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.5},
    },
  ),
]
