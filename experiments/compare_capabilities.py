"""Who can do what: eight architectures of one size on six synthetic tasks, three seeds each.

Run: python launch.py compare --config=experiments/compare_capabilities.py
Takes: to be measured.
Expect: accuracy 1.0
"""

from llm_jax.config import comparison, with_mode

ARCHITECTURES = ("gpt2", "llama", "lstm", "s5", "mamba", "mamba2", "rwkv4", "rwkv7")


def get_config(mode=""):
  config = comparison(
    architectures=ARCHITECTURES,
    tasks=("synthetic:associative_recall", "synthetic:parity"),
    model={"repeats": 2},
    parameters=100_000,
    tolerance=0.1,
    learning_rates=(1e-3, 4e-3),
    tuning_steps=400,
    contexts=(),
  )
  config.log.every, config.checkpoint.every = 20, 0
  if mode == "tiny":
    tiny = {"steps": 2, "batch_size": 8}
    sizes = {"vocab_size": 32, "seq_len": 16, "pairs": 2}
    config.compare.update(
      {"architectures": ("gpt2", "lstm"), "tasks": ("recall", "parity"), "tuning_steps": 2}
      | {"model": {"repeats": 1}, "parameters": 10_000, "tolerance": 0.2, "seeds": 2}
    )
    config.compare.variants = {
      "recall": {
        "experiment": "synthetic",
        "changes": {**tiny, "seq_len": 16, "objective_options": {"task": sizes}},
      },
      "parity": {
        "experiment": "synthetic:parity",
        "changes": {
          **tiny,
          "seq_len": 5,
          "objective_options": {"task": {"longest": 4, "held_out_lengths": (4, 8)}},
        },
      },
    }
  return with_mode(config, mode)
