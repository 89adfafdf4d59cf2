"""Who can do what: eight architectures of one size on six synthetic tasks, three seeds each.

The tasks are small ones: a row has at most 41 tokens to train on. Held-out examples are up to four
times as long where a task has lengths.

Run: python launch.py compare --config=experiments/compare_capabilities.py
Takes: it has not been run to its end yet; a step takes 20 to 60 ms of a core.
Expect: in the tiny mode, after two steps, parity 0.47 right by an LSTM; no more is known yet.
"""

from llm_jax.config import comparison, with_mode
from llm_jax.data import task

ARCHITECTURES = ("gpt2", "llama", "lstm", "s5", "mamba", "mamba2", "rwkv4", "rwkv7")
SMALL = {
  "associative_recall": {"vocab_size": 64, "seq_len": 32, "pairs": 4, "noise": False},
  "selective_copying": {"seq_len": 32, "copied": 8},
  "copying": {"longest": 16, "held_out_lengths": (16, 32, 64), "letters": 16},
  "parity": {"longest": 20, "held_out_lengths": (20, 40, 80)},
  "permutation_composition": {"group": "S3", "longest": 16, "held_out_lengths": (16, 32, 64)},
  "induction": {"longest": 32, "held_out_lengths": (32, 64, 128)},
}
TINY = {
  "associative_recall": {"vocab_size": 32, "seq_len": 16, "pairs": 2},
  "parity": {"longest": 4, "held_out_lengths": (4, 8)},
}


def get_config(mode=""):
  sizes = TINY if mode == "tiny" else SMALL
  config = comparison(
    architectures=ARCHITECTURES,
    tasks=tuple(sizes),
    model={"repeats": 2},
    parameters=72_000,
    tolerance=0.2,
    learning_rates=(1e-3, 4e-3),
    tuning_steps=500,
    contexts=(),
    variants={name: variant(name, 1000, 32, **chosen) for name, chosen in sizes.items()},
  )
  config.log.every, config.checkpoint.every = 20, 250
  if mode == "tiny":
    config.compare.update(
      {"architectures": ("gpt2", "lstm"), "tuning_steps": 2, "seeds": 2, "tolerance": 0.2}
      | {"model": {"repeats": 1}, "parameters": 10_000}
      | {"variants": {name: variant(name, 2, 8, **chosen) for name, chosen in sizes.items()}}
    )
  return with_mode(config, mode)


def variant(name, steps, batch_size, **sizes):
  """A task of some sizes, and its budget."""
  chosen = task.options(name, **sizes)
  budget = {"steps": steps, "batch_size": batch_size, "eval": {"every": 0}}
  options = {"objective_options": {"task": chosen, "held_out": 64}}
  length = {"seq_len": task.make(chosen).length}
  return {"experiment": f"synthetic:{name}", "changes": {**budget, **options, **length}}
