"""The run folder: who owns it, which run it holds, and the files that say so.

A run folder holds config.json, environment.json, lock (while a process owns it), metrics.jsonl,
TensorBoard events, checkpoints/, log, tokenizer.json (and what a published one came with) and, once
the run is finished, result.json.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from llm_jax.config import CONFIG_VERSION
from llm_jax.errors import UserError
from llm_jax.writing import TEMPORARY, whole_file

# What a resumed run may be asked to do otherwise: none of it changes a loss, a batch or a rate.
_MAY_DIFFER = ("log.", "checkpoint.", "parallel.", "eval.every")
# What may lie in a folder before its config.json is there: a launcher's log, a killed start.
_NOT_FOREIGN = ("lock", "log")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")


class InUseError(UserError):
  """Another process owns the folder."""


def write_text(path: Path, text: str) -> None:
  """Writes a file whole or not at all. Raises UserError if the disk is full."""
  with disk_errors(path.parent), whole_file(path) as file:
    file.write(text.encode())


def write_json(path: Path, value) -> None:
  """`write_text` of JSON, two spaces deep."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path):
  """The file's value. Raises UserError if it is missing or no JSON."""
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise UserError(f"Expected the file {path}; there is none.") from None
  except (ValueError, IsADirectoryError, PermissionError) as error:
    raise UserError(f"Expected JSON in {path}, but it cannot be read: {error}.") from None


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
  """Turns the file system's refusals that a user can mend into UserError."""
  try:
    yield
  except Exception as error:
    if is_disk_full(error):
      raise UserError(
        f"The disk is full: could not write to {folder}. What was complete there is intact. "
        "Free some space and run the same command again."
      ) from error
    if isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
      raise UserError(
        f"Cannot write to {folder}: {error.strerror}. Choose another --workdir."
      ) from error
    raise


def is_disk_full(error: BaseException | None) -> bool:
  """Whether an exception, or one that caused it, is a full disk or quota.

  Orbax writes arrays through TensorStore, whose errors carry the errno as text only.
  """
  words = ("No space left on device", "Disk quota exceeded", "RESOURCE_EXHAUSTED: Error writing")
  while error is not None:
    if any(word in str(error) for word in words):
      return True
    if isinstance(error, BaseExceptionGroup) and any(map(is_disk_full, error.exceptions)):
      return True
    error = error.__cause__ or error.__context__
  return False


# ---------------------------------------------------------------------------------- the config


def read_config(folder: Path) -> ConfigDict:
  """The config of the run in a folder.

  Raises:
    UserError: there is no run, or one of another format version.
  """
  folder = Path(folder)
  if not (folder / "config.json").is_file():
    raise UserError(
      f"Expected a run folder (with a config.json) at {folder}; there is none. "
      "Train one first: python launch.py train --config=... --workdir=..."
    )
  stored = read_json(folder / "config.json")
  version = stored.get("version") if isinstance(stored, dict) else None
  if isinstance(stored, dict) and version is None and "model_type" in stored:
    raise UserError(
      f"{folder} holds a published checkpoint and no run. Make a run folder of it first: "
      f"python launch.py import --from={folder} --workdir=..."
    )
  if version != CONFIG_VERSION:
    raise UserError(
      f"{folder / 'config.json'} has format version {version!r}; this program reads version "
      f"{CONFIG_VERSION}. Use the release that wrote it, or another --workdir."
    )
  return ConfigDict({key: _tuples(value) for key, value in stored.items()})


def check(folder: Path, config: ConfigDict) -> None:
  """Refuses a folder that this config's run must not be written into; changes nothing.

  Raises:
    UserError: it is a file, holds another config's run, another format, or foreign files.
  """
  if not folder.exists():
    return
  if not folder.is_dir():
    raise UserError(f"Expected a folder at {folder}; found a file. Choose another --workdir.")
  if not (folder / "config.json").exists():
    foreign = sorted(
      entry.name
      for entry in folder.iterdir()
      if entry.name not in _NOT_FOREIGN and not entry.name.startswith(TEMPORARY)
    )
    if foreign:
      raise UserError(
        f"{folder} holds files but no run (no config.json): {', '.join(foreign[:5])}"
        f"{', ...' if len(foreign) > 5 else ''}. Nothing was written. "
        "Choose an empty or new folder with --workdir."
      )
    return
  different = _differences(read_config(folder), config)
  if different:
    lines = [f"  {key}: {old} there, {new} here" for key, old, new in different[:5]]
    more = f"\n  ... and {len(different) - 5} more" if len(different) > 5 else ""
    raise UserError(
      f"{folder} holds the run of another config:\n" + "\n".join(lines) + more + "\n"
      "Choose another --workdir, or give the same config to resume that run."
    )


def _differences(old: ConfigDict, new: ConfigDict) -> list[tuple[str, str, str]]:
  """(key, old value, new value) of all that may not differ between a run and its resumption."""
  old, new = _flat(old), _flat(new)
  keys = [*new, *(key for key in old if key not in new)]
  found = ((key, old.get(key, "nothing"), new.get(key, "nothing")) for key in keys)
  return [row for row in found if row[1] != row[2] and not row[0].startswith(_MAY_DIFFER)]


def _flat(config: ConfigDict) -> dict[str, str]:
  """{"a.b": its JSON}. Through JSON, so that a tuple equals the list it was stored as."""

  def walk(prefix, value):
    if isinstance(value, dict) and value:
      for key, child in value.items():
        yield from walk(f"{prefix}.{key}" if prefix else key, child)
    else:
      yield prefix, json.dumps(value)

  return dict(walk("", json.loads(json.dumps(config.to_dict()))))


def _tuples(value):
  """JSON's lists as the tuples they were in the config."""
  if isinstance(value, dict):
    return {key: _tuples(child) for key, child in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


# ------------------------------------------------------------------------------------ the lock


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
  """Owns a folder until the end of the block; makes the folder if there is none.

  The file `lock` names the owner. A dead owner's lock is taken over; what is written here is
  read and replaced under flock, so two processes cannot both take it.

  Raises:
    UserError: a live process owns it, or one on another host (of which nobody here can tell).
  """
  path = folder / "lock"
  with disk_errors(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(path) as file:
      owner = _parse(file.read())
      if owner and _may_live(owner):
        raise InUseError(
          f"{folder} is in use by process {owner['pid']} on host {owner['host']} (since "
          f"{owner['since']}). Wait for it or choose another --workdir. If that process is gone, "
          f"delete {path}."
        )
      mine = _identity()
      file.seek(0)
      file.truncate()
      file.write(json.dumps(mine) + "\n")
      file.flush()
  try:
    yield
  finally:
    # A folder deleted under a run, or a lock that someone took over by hand, is theirs.
    with contextlib.suppress(OSError), _locked(path, create=False) as file:
      if _parse(file.read()) == mine:
        path.unlink()


@contextlib.contextmanager
def _locked(path: Path, create: bool = True) -> Iterator:
  """The open file under flock, surely the one that bears the name: its owner may unlink it
  between our open and our flock."""
  while True:
    descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      try:
        same = os.fstat(file.fileno()).st_ino == os.stat(path).st_ino
      except FileNotFoundError:
        same = False
      if same:
        yield file
        return


def _parse(text: str) -> dict | None:
  """The owner a lock file names; None for the empty or half line of one killed while writing."""
  try:
    owner = json.loads(text)
    return owner if {"pid", "host", "started", "since"} <= owner.keys() else None
  except (ValueError, AttributeError):
    return None


def _identity() -> dict:
  pid = os.getpid()
  since = time.strftime("%Y-%m-%d %H:%M:%S")
  return {"pid": pid, "host": socket.gethostname(), "started": _started(pid), "since": since}


def _may_live(owner: dict) -> bool:
  """False only if the owner surely is dead: a pid alone may have been given out again."""
  if owner["host"] != socket.gethostname():
    return True
  started = _started(owner["pid"])
  return started is not None and started == owner["started"]


def _started(pid: int) -> str | None:
  """When a process of this host started, in the kernel's own words; None if there is none."""
  try:
    # The second field, the command, may hold spaces and parentheses: count from its end.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
  except FileNotFoundError:
    if Path("/proc/self/stat").exists():
      return None
  shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
  return shown.stdout.strip() or None


# -------------------------------------------------------------------------------- environment


def environment() -> dict:
  """What a result depends on beside its config: versions, devices, CPU, commit, command line."""
  devices = jax.devices()
  versions = {}
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[name] = importlib.metadata.version(name)
  return {
    "python": platform.python_version(),
    "packages": versions,
    "platform": platform.platform(),
    "cpu": _cpu_model(),
    "cpu_count": os.cpu_count(),
    "backend": devices[0].platform,
    "devices": [device.device_kind for device in devices],
    "processes": jax.process_count(),
    "host": socket.gethostname(),
    "commit": _commit(),
    "command": [sys.executable, *sys.argv],
    "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
  }


def _cpu_model() -> str:
  with contextlib.suppress(OSError):
    for line in Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.processor()


def _commit() -> str | None:
  """The commit of this source tree, with "+" if files differ from it; None outside a checkout."""
  here = Path(__file__).resolve().parent

  def git(*arguments):
    command = ["git", "-C", str(here), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout

  try:
    git("ls-files", "--error-unmatch", __file__)  # installed inside a checkout of something else
    commit = git("rev-parse", "HEAD").strip()
    return commit + ("+" if git("status", "--porcelain", "--untracked-files=no").strip() else "")
  except (OSError, subprocess.SubprocessError):
    return None
