"""A tiny experiment for the tests of sweeps, and the command lines that sweep it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = "\n\n".join(f"{number} is followed by {number + 1}, and so on" for number in range(60))
EXPERIMENT = '''"""Sweep: a layer of width 8 on a small text."""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config
from llm_jax.sweeps.space import *


def get_config(mode=""):
  config = base()
  config.model = model_config(d_model=8, repeats=1, pattern=("mlp",))
  config.steps, config.batch_size, config.seq_len = {steps}, 8, 16
  config.data.path, config.tokenizer.name = "{text}", "byte"
  config.log.every, config.checkpoint.every, config.eval.batches = 1, 2, 1
  return with_mode(config, mode)


def sweep():
  return {space}
'''
RATES = '{"optimizer.learning_rate": [0.1, 0.01]}'


def write(folder: Path, space: str = RATES, steps: int = 2, name: str = "tiny") -> str:
  """Writes the experiment with a space; returns its path."""
  (folder / "text.txt").write_text(TEXT)
  content = EXPERIMENT.replace("{steps}", str(steps)).replace("{space}", space)
  path = folder / f"{name}.py"
  path.write_text(content.replace("{text}", str(folder / "text.txt")))
  return str(path)


def start(config: str, folder: Path, *flags: str) -> subprocess.Popen:
  """`launch.py sweep` in a process of its own, with one device a process."""
  one_device = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
  argv = [sys.executable, ROOT / "launch.py", "sweep", f"--config={config}"]
  return subprocess.Popen(
    [*argv, f"--workdir={folder}", *flags],
    env=os.environ | {"XLA_FLAGS": one_device, "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def saved(folder: Path, trial: int | str) -> bool:
  """Whether a trial of a sweep has a whole checkpoint."""
  return any(p.name.isdecimal() for p in folder.glob(f"trials/{trial}/checkpoints/*"))
