"""BLOOM: cases for parity with transformers' BloomForCausalLM."""

from tests.parity.harness import Case

CASES = [
  Case(
    "bloom",
    "BloomForCausalLM",
    {"vocab_size": 53, "hidden_size": 24, "n_layer": 2, "n_head": 4},
    draw={"word_embeddings_layernorm": (0.2, 0.1)},  # or each token predicts itself
  ),
  Case(
    "bloom-options",  # heads that are no power of two have slopes of two sequences
    "BloomForCausalLM",
    {
      "vocab_size": 47,
      "hidden_size": 30,
      "n_layer": 3,
      "n_head": 6,
      "layer_norm_epsilon": 1e-3,
      "tie_word_embeddings": False,
    },
    scale=2.0,
    length=19,
    padding=9,
  ),
]
