"""GPT-1: cases for parity with transformers' OpenAIGPTLMHeadModel."""

from tests.parity.harness import Case

CASES = [
  Case(
    "openai-gpt",
    "OpenAIGPTLMHeadModel",
    {"vocab_size": 53, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 80},
  ),
  Case(
    "openai-gpt-options",
    "OpenAIGPTLMHeadModel",
    {
      "vocab_size": 41,
      "n_embd": 20,
      "n_layer": 3,
      "n_head": 2,
      "n_positions": 72,
      "afn": "silu",
      "layer_norm_epsilon": 1e-3,
      "tie_word_embeddings": False,
    },
    length=17,
    padding=9,
  ),
]
