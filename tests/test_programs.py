"""Runs that share compiled programs: what they share, and that each is what it is alone."""

import json

import pytest

from llm_jax import config as config_schema
from llm_jax import objective
from llm_jax.models import build
from llm_jax.training import loop
from llm_jax.training.programs import Programs

EXPERIMENT = str(config_schema.EXPERIMENTS / "synthetic.py")


def config_of(**changes):
  config = config_schema.load(f"{EXPERIMENT}:tiny", [])
  config.checkpoint.every, config.log.every, config.objective_options.held_out = 0, 1, 8
  config.model.d_model = 8
  with config.unlocked():
    for key, value in changes.items():
      *parents, last = key.split("__")
      at = config
      for parent in parents:
        at = at[parent]
      at[last] = value
  return config


def rows(folder, config, programs=None):
  loop.train(config, folder, progress=False, programs=programs)
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  timed = ("seconds", "tokens_per_second")
  return [{key: value for key, value in line.items() if key not in timed} for line in lines]


def test_runs_that_differ_in_numbers_share_programs_and_are_what_they_are_alone(tmp_path):
  programs = Programs()
  rows(tmp_path / "first", config_of(), programs)
  other = config_of(seed=1, steps=3, optimizer__learning_rate=1e-3, eval__every=1)
  shared = rows(tmp_path / "shared", other, programs)
  assert len(programs._strategies) == 1
  assert shared == rows(tmp_path / "alone", other)
  assert shared != rows(tmp_path / "original", config_of())


@pytest.mark.parametrize(
  "change",
  [
    {"optimizer__weight_decay": 0.5},
    {"model__repeats": 2},
    {"schedule__name": "constant"},
    {"objective_options__held_out_seed": 1},
    {"freeze": ("embed/.*",)},
  ],
)
def test_what_is_compiled_in_is_not_shared(change):
  programs, made = Programs(), []
  for config in (config_of(), config_of(**change)):
    config.model.vocab_size = 256
    model = build.build(config.model)
    made.append(programs.strategy(config, model, objective.make(config), {}))
  assert len(programs._strategies) == 2
  assert made[0]._step is not made[1]._step
