"""One layer file and one experiment are enough: the contract tests find both by themselves."""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

LAYER = '''"""A decaying sum of the past, one rate a channel."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.ops.linear_recurrence import linear_recurrence


class Leaky(nn.Module):
  """h_t = decay h_{t-1} + x_t."""

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("leaky")
    init = nn.with_logical_partitioning(nn.initializers.zeros, ("embed",))
    decay_D = jax.nn.sigmoid(self.param("rate", init, x_BTD.shape[-1:]).astype(jnp.float32))
    real_BT1, start_BT1 = context.real_BT[..., None], context.starts_BT[..., None]
    decay_BTD = jnp.where(real_BT1, decay_D[None, None], 1.0)
    if state is None:
      decay_BTD = jnp.where(START, 0.0, decay_BTD)
    h_BTD, last_BD = linear_recurrence(
      decay_BTD,
      jnp.where(real_BT1, x_BTD.astype(jnp.float32), 0.0),
      None if state is None else state["h"],
    )
    return h_BTD.astype(x_BTD.dtype), None if state is None else {"h": last_BD}

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    return {"h": jnp.zeros((batch, d_model))}
'''

EXPERIMENT = '''"""Leaky: decaying sums.

Run: python launch.py train --config=experiments/leaky_model.py
Takes: a minute.
Expect: 2.0 bits per byte.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.model = model_config(pattern=("leaky", "mlp"))
  return with_mode(config, mode)
'''


def contract_tests(folder, start, selected):
  """The chosen tests of a copy of the tree with the layer in it: (exit code, output)."""
  for name in ("llm_jax", "experiments", "tests"):
    shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
  for name in ("pyproject.toml", "launch.py", "README.md"):
    shutil.copy(ROOT / name, folder)
  (folder / "llm_jax/layers/leaky.py").write_text(LAYER.replace("START", start))
  (folder / "experiments/leaky_model.py").write_text(EXPERIMENT)
  tests = ["tests/test_contract.py", "tests/test_experiments.py"]
  command = [
    sys.executable,
    "-m",
    "pytest",
    *tests,
    "-v",
    "-n0",
    "-k",
    selected,
    "-p",
    "no:cacheprovider",
  ]
  environment = os.environ | {"PYTHONPATH": str(folder), "XLA_FLAGS": ""}
  ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
  return ran.returncode, ran.stdout


def test_a_new_layer_and_its_experiment_are_tested_without_being_listed(tmp_path):
  code, output = contract_tests(tmp_path, "start_BT1", "leaky")
  assert code == 0, output
  assert int(output.split(" passed")[0].split()[-1]) >= 18, output


def test_a_new_layer_that_leaks_between_documents_fails(tmp_path):
  code, output = contract_tests(tmp_path, "start_BT1 & False", "leaky and packed")
  assert code == 1
  assert "test_packed_documents_equal_separate_ones[leaky]" in output
  assert "1 failed" in output
