"""RWKV-4: cases for parity with transformers' RwkvForCausalLM."""

from tests.parity.harness import Case

# Decays from hardly any to e^-8 a step, bonuses of both signs, shares beyond 0 and 1.
DRAW = {
  r"time_decay$": (-0.5, 1.0),
  r"time_first$": (0.0, 0.7),
  r"time_mix_": (0.5, 0.4),
}
TRAINED = "rwkv4-tiny"
CASES = [
  Case(
    "rwkv",
    "RwkvForCausalLM",
    {"vocab_size": 53, "hidden_size": 20, "num_hidden_layers": 3, "context_length": 64},
    draw=DRAW,
  ),
  Case(
    "rwkv-tied",
    "RwkvForCausalLM",
    {
      "vocab_size": 47,
      "hidden_size": 14,
      "intermediate_size": 30,
      "num_hidden_layers": 2,
      "tie_word_embeddings": True,
      "rescale_every": 0,
    },
    length=19,
    padding=9,
    scale=3.0,  # else a tied head answers each token with itself
    draw=DRAW,
  ),
]
