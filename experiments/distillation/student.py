"""A student of a quarter of its teacher's size learns the next token from the teacher's logits.

First train the teacher: python launch.py train --config=experiments/distillation/teacher.py
Without its answers, for comparison: --config.objective_options.soft=0 --workdir=runs/alone

Run: python launch.py train --config=experiments/distillation/student.py
Takes: a minute of two CPU cores, for 200 steps of 223,808 parameters.
Expect: 2.55 bits per byte of held-out text; 2.65 without the teacher's answers
(seeds 0 and 1 agree to 0.002).
"""

from llm_jax import objective
from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.objective = "distillation"
  config.objective_options = objective.options("distillation", teacher="runs/teacher")
  config.model = model_config(
    d_model=64,
    pattern=("attention", "mlp"),
    repeats=3,
    positions="learned",
    max_length=128,
    layers={"attention": {"num_heads": 2}, "mlp": {"activation": "gelu_tanh"}},
  )
  return with_mode(config, mode)
