"""A synthetic task, `:NAME` of those in llm_jax/data/tasks, by a small Llama or any other decoder.

Sizes are such that a task takes minutes on two CPU cores; the published ones are the defaults of
the task's own options. --model=experiments/lstm.py puts another experiment's model in its place.

Run: python launch.py train --config=experiments/synthetic.py
Takes: two minutes of one CPU core, for 1,000 steps of 106,112 parameters.
Expect: 1.000 of the values recalled, from step 600 on. Of the other tasks no score is told yet.
"""

from llm_jax.config import base, with_mode
from llm_jax.data import task
from llm_jax.models.spec import model_config
from llm_jax.objective import options

SHORT = {"held_out_lengths": (40, 80, 160)}  # trained up to 40, the default
# Where there are as many answers as tokens in the string.
HALF = {"longest": 20, "held_out_lengths": (20, 40, 80)}
# The examples of MAD's tasks; the paper goes through the training ones 200 times.
MAD = {"objective_options": {"training_set": 12_800, "held_out": 1280}}

# For each task its options, and what else differs from the shared settings below.
TASKS = {
  "associative_recall": ({"vocab_size": 64, "seq_len": 32, "pairs": 4, "noise": False}, {}),
  "parity": (SHORT, {"steps": 2000}),
  "even_pairs": (SHORT, {}),
  "cycle_navigation": (SHORT, {"steps": 2000}),
  "modular_arithmetic": ({"longest": 39, "held_out_lengths": (39, 79, 159)}, {"steps": 2000}),
  "modular_arithmetic_brackets": (SHORT, {"steps": 3000}),
  "solve_equation": (SHORT, {"steps": 3000}),
  "reverse_string": (HALF, {"steps": 2000}),
  "stack_manipulation": (HALF, {"steps": 2000}),
  "duplicate_string": (HALF, {"steps": 2000}),
  "missing_duplicate": (SHORT, {"steps": 3000}),
  "odds_first": (HALF, {"steps": 2000}),
  "bucket_sort": (HALF, {"steps": 2000}),
  "binary_addition": (HALF, {"steps": 3000}),
  "binary_multiplication": (HALF, {"steps": 3000}),
  "compute_sqrt": (HALF, {"steps": 3000}),
  "permutation_composition": ({"group": "S3", **HALF}, {"steps": 2000}),
  "dyck": ({"longest": 40, **SHORT}, {}),
  "addition": ({"reverse": True}, {"steps": 3000}),
  "listops": (
    {"shortest": 4, "longest": 40, "held_out_lengths": (20, 40, 80), "arguments": 5},
    {"steps": 3000},
  ),
  "copying": (HALF, {"steps": 2000}),
  "induction": ({"longest": 64, "held_out_lengths": (64, 128, 256)}, {"steps": 2000}),
  "in_context_recall": ({}, MAD),
  "noisy_recall": ({}, MAD),
  "fuzzy_recall": ({}, MAD),
  "selective_copying": ({"seq_len": 128}, MAD),
  "compression": ({}, MAD),
  "memorization": ({}, {"objective_options": {"training_set": 256, "held_out": 1280}}),
  "knowledge": ({"people": 500, "names": (40, 40, 40), "templates": 5}, {"steps": 2000}),
}


def get_config(mode=""):
  name = mode if mode in TASKS else "associative_recall"
  sizes, settings = TASKS[name]
  if mode == "tiny":
    sizes = {**sizes, "seq_len": 16, "pairs": 2}
  chosen = task.options(name, **sizes)
  config = base()
  config.objective = "synthetic"
  config.objective_options = options("synthetic", task=chosen)
  config.steps, config.batch_size = 1000, 64
  config.optimizer.learning_rate, config.optimizer.weight_decay = 3e-3, 0.01
  config.eval.every, config.checkpoint.every = 200, 500
  config.update(settings)
  made = task.make(chosen)
  config.model = model_config(
    heads=(getattr(made, "HEAD", "language_model"),),
    d_model=64,
    repeats=2,
    norm="rmsnorm",
    layers={"attention": {"positions": "rope"}, "mlp": {"activation": "swiglu"}},
  )
  config = with_mode(config, mode, TASKS)
  config.seq_len = made.length
  return config
