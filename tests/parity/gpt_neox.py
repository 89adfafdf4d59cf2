"""GPT-NeoX and Pythia: cases for parity with transformers' GPTNeoXForCausalLM."""

from tests.parity.harness import Case

CASES = [
  Case(
    "gpt_neox",
    "GPTNeoXForCausalLM",
    {
      "vocab_size": 53,
      "hidden_size": 48,  # heads of 16, of which 4 columns turn
      "num_hidden_layers": 2,
      "num_attention_heads": 3,
      "intermediate_size": 52,
    },
  ),
  Case(
    "gpt_neox-options",
    "GPTNeoXForCausalLM",
    {
      "vocab_size": 47,
      "hidden_size": 24,
      "num_hidden_layers": 3,
      "num_attention_heads": 2,
      "intermediate_size": 36,
      "hidden_act": "gelu_new",
      "use_parallel_residual": False,
      "attention_bias": False,
      "tie_word_embeddings": True,
      "layer_norm_eps": 1e-3,
      "rope_parameters": {
        "rope_type": "linear",
        "factor": 3.0,
        "rope_theta": 500.0,
        "partial_rotary_factor": 0.5,
      },
    },
    draw={"embed_in": (0.0, 0.1)},  # or each token predicts itself
    length=17,
    padding=9,
  ),
]
