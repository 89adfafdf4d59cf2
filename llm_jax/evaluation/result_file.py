"""What an evaluation leaves: a JSON of the scores, the command and the versions that made them."""

import contextlib
import importlib.metadata
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path

from llm_jax.training import workdir

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


def write(where: Path | str, task: str, scores: dict, command: Sequence[str] = (), **about) -> dict:
  """Writes a result whole or not at all, over an older one.

  Args:
    where: a file, or a folder, which gets `evaluation-TASK.json`.
    task: a name, of which letters, digits, dots, dashes and underscores go into the file's.
    scores: numbers by name, of any depth.
    command: the flags behind `launch.py`.
    **about: what else belongs to the result: data, step, examples.

  Returns:
    what was written: task, scores, what is about it, command, versions of the packages installed,
    and the machine, the commit and the time as a run's environment.json has them.

  Raises:
    UserError: the file cannot be written.
  """
  where = Path(where)
  if where.is_dir():
    where = where / f"evaluation-{''.join(c if _plain(c) else '_' for c in task)}.json"
  environment = workdir.environment()
  result = {
    "task": task,
    "scores": scores,
    **about,
    "command": shlex.join(["python", "launch.py", *command]),
    "versions": versions(),
    "environment": {name: environment[name] for name in _ENVIRONMENT},
  }
  with workdir.disk_errors(where.parent):
    where.parent.mkdir(parents=True, exist_ok=True)
  workdir.write_json(where, result)
  return result


def versions() -> dict[str, str]:
  """Of Python, of this package and of those its scores come from, as far as installed."""
  found = {"python": platform.python_version()}
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found


def _plain(character):
  return character.isascii() and (character.isalnum() or character in "._-")
