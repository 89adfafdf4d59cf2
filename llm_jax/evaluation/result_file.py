"""What an evaluation leaves: a JSON of the scores, the command and the versions that made them."""

import contextlib
import importlib.metadata
import json
import platform
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from llm_jax.errors import UserError
from llm_jax.training import workdir
from llm_jax.writing import whole_file

# Whatever may change a score: the packages that compute, and those that count.
_PACKAGES = (
  "llm_jax",
  "jax",
  "jaxlib",
  "flax",
  "numpy",
  "scipy",
  "tokenizers",
  "sacrebleu",
  "rouge-score",
  "scikit-learn",
  "seqeval",
  "lm-eval",
)
_ENVIRONMENT = ("commit", "platform", "cpu", "backend", "devices", "started")


def result(task: str, scores: dict, command: Sequence[str] = (), **about) -> dict:
  """What `write` writes.

  Args:
    task: its name.
    scores: numbers by name, of any depth.
    command: the flags behind `launch.py`.
    **about: what else belongs to the scores: data, step.

  Returns:
    task, scores, what is about them, command, versions of the packages installed, and the machine,
    the commit and the time as a run's environment.json has them.
  """
  environment = workdir.environment()
  return {
    "task": task,
    "scores": scores,
    **about,
    "command": shlex.join(["python", "launch.py", *command]),
    "versions": versions(),
    "environment": {name: environment[name] for name in _ENVIRONMENT},
  }


def write(where: Path | str, result: dict) -> Path:
  """Writes a result whole or not at all, over an older one.

  Args:
    where: a file, or a folder, which gets `evaluation-TASK.json` with all but letters, digits,
      dots, dashes and underscores of the task's name replaced.
    result: of `result`.

  Returns:
    the file.

  Raises:
    UserError: it cannot be written.
  """
  where = Path(where)
  if where.is_dir():
    where = where / f"evaluation-{re.sub(r'[^A-Za-z0-9._-]', '_', result['task'])}.json"
  try:
    where.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(where) as file:
      file.write((json.dumps(result, indent=2) + "\n").encode())
  except OSError as error:
    raise UserError(
      f"The result cannot be written to {where}: {error.strerror}. Name another file: --json=FILE."
    ) from error
  return where


def versions() -> dict[str, str]:
  """Of Python, of this package and of those its scores come from, as far as installed."""
  found = {"python": platform.python_version()}
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found
