"""Checkpoints: all that a run needs to go on as if it had never stopped, through Orbax.

checkpoints/<step>/ holds `params`, `state` (step, optimizer, key, counters), `run` (format
version, the data iterator, what the metrics add up) and files.json, the seal: size and CRC of
each file, written before the folder gets its name. So a folder with a name is whole, and what
happened to it later is told file by file before anything is restored.
"""

import contextlib
import functools
import json
import shutil
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy

from llm_jax.errors import UserError
from llm_jax.training.early_stopping import lower_is_better
from llm_jax.training.step import TrainState
from llm_jax.training.workdir import disk_errors, is_disk_full, read_json, write_json

FORMAT_VERSION = 1
_SEAL = "files.json"
# Orbax writes these at the very end, after the seal; a restore does not need them.
_UNSEALED = (_SEAL, "_CHECKPOINT_METADATA", "commit_success.txt")
# Not the schedule: a resumed run takes it from its config, which is the same.
_STATE = ("step", "opt_state", "key", "skipped", "skipped_in_a_row")


class Checkpoints:
  """The checkpoints of one run: the newest `keep`, and the `keep_best` by a metric.

  Saving goes on in the background while the run continues; what failed there is raised by the
  next call. Use as a context manager: leaving it waits for the last save.

  Args:
    folder: the run folder.
    config: `config.checkpoint`.
    metric: of the validation text, by which one is the best, see `early_stopping`.

  Raises:
    UserError: counts that make no sense, or a checkpoint whose files are damaged.
  """

  def __init__(self, folder: Path, config: ConfigDict, metric: str = "loss"):
    if config.every < 0 or config.keep < 1 or config.keep_best < 0:
      raise UserError(
        f"checkpoint.every ({config.every}) and checkpoint.keep_best ({config.keep_best}) must be "
        f"0 or more, checkpoint.keep ({config.keep}) 1 or more."
      )
    self._folder = Path(folder).absolute() / "checkpoints"
    self._saving, self._metric = None, metric
    self._open = contextlib.ExitStack()
    policies = preservation_policy
    best = policies.BestN(
      get_metric_fn=lambda metrics: metrics[metric],
      reverse=lower_is_better(metric),
      n=config.keep_best,
      keep_checkpoints_without_metrics=False,
    )
    options = ocp.CheckpointManagerOptions(
      best_fn=lambda metrics: metrics[metric],
      best_mode="min" if lower_is_better(metric) else "max",
      preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(config.keep), best]),
      cleanup_tmp_directories=True,
      async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
    )
    self._manager = _manager(self._folder, options)

  def latest(self) -> int | None:
    """The step of the newest checkpoint, or None."""
    return self._manager.latest_step()

  def save(self, step: int, state: TrainState, run: dict, value: float | None = None) -> None:
    """Starts a save, once the previous one is finished.

    Args:
      step: steps made.
      state: a strategy's `to_checkpoint`. It is copied before this returns.
      run: JSON, handed back by `restore`: the data iterator's state and the like.
      value: the metric at this step, if it was measured; decides which is the best.

    Raises:
      UserError: the disk is full, now or in the save before.
    """
    if step == self.latest():
      return
    with self._full_disk():
      self._manager.wait_until_finished()
      self._saving = step
      items = ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        state=ocp.args.StandardSave({name: getattr(state, name) for name in _STATE}),
        run=ocp.args.JsonSave({"format_version": FORMAT_VERSION, **run}),
      )
      metrics = {self._metric: value} if value is not None and value - value == 0 else None
      self._manager.save(step, args=items, metrics=metrics)

  def check(self) -> None:
    """Raises what a save in the background came to, without waiting for it."""
    with self._full_disk():
      self._manager.check_for_errors()

  def read(self, step: int) -> dict:
    """What `run` was when the step was saved; checks the files of the checkpoint.

    Raises:
      UserError: damaged files, or another format version.
    """
    return _read_run(self._folder / str(step))

  def restore(self, step: int, abstract: TrainState) -> TrainState:
    """The state of a checkpoint that `read` found whole.

    Args:
      step: one that exists.
      abstract: a strategy's `abstract_checkpoint`, for shapes and places; its schedule comes back
        as it is.

    Raises:
      UserError: it cannot be read, or holds other parameters than expected.
    """
    folder = self._folder / str(step)
    with _readable(folder), ocp.StandardCheckpointer() as reader:
      check_shapes(reader.metadata(folder / "params").item_metadata.tree, abstract.params, folder)
      state = {name: getattr(abstract, name) for name in _STATE}
      items = ocp.args.Composite(
        params=ocp.args.StandardRestore(abstract.params), state=ocp.args.StandardRestore(state)
      )
      found = self._manager.restore(step, args=items)
    return abstract.replace(params=found.params, **found.state)

  def wait(self) -> None:
    """Returns when the last save is whole on the disk. Raises UserError if it could not be."""
    with self._full_disk():
      self._manager.wait_until_finished()
      self._manager.check_for_errors()

  def __enter__(self):
    self._open.enter_context(_quiet())
    return self

  def __exit__(self, kind, error, traceback):
    with self._open:
      if error is None:
        with self._full_disk():
          self._manager.close()
      else:  # the first error is the one to tell
        with contextlib.suppress(Exception):
          self._manager.close()

  def _seal(self) -> None:
    """Lists the files of the save that is about to get its name (in Orbax's thread)."""
    if jax.process_index() == 0:
      folder = next(self._folder.glob(f"{self._saving}.*tmp*"))
      write_json(folder / _SEAL, _listing(folder))

  @contextlib.contextmanager
  def _full_disk(self) -> Iterator[None]:
    """Tells a full disk as such, and gives the space of the unfinished save back."""
    try:
      with disk_errors(self._folder):
        yield
    except UserError as error:
      if is_disk_full(error.__cause__) and jax.process_index() == 0:
        _remove(self._folder.glob("*tmp*"))
      raise


def load_params(folder: Path | str, step: int | str | None = None) -> dict:
  """The parameters alone of `load`."""
  return load(folder, step)[0]


def load(folder: Path | str, step: int | str | None = None) -> tuple[dict, dict]:
  """A checkpoint's parameters, nested dicts of numpy arrays on the host, and its identity: the
  vocabulary, tokenizer and text that they were trained with.

  Args:
    folder: a run folder, or one checkpoint of it (`<run>/checkpoints/<step>`).
    step: a number, "best" (by the run's metric, if it was measured), or "latest" or None.

  Raises:
    UserError: no such checkpoint, or a damaged one.
  """
  folder = Path(folder).absolute()
  if folder.parent.name == "checkpoints" and folder.name.isdecimal():
    folder, step = folder.parent.parent, int(folder.name)
  checkpoints = folder / "checkpoints"
  names = [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []
  steps = sorted(int(name) for name in names if name.isdecimal())
  if not steps:
    raise UserError(
      f"Expected checkpoints in {checkpoints}; there are none. Give the folder of a run that has "
      "saved one (checkpoint.every above 0); of a published checkpoint, launch.py import makes one."
    )
  step = int(step) if isinstance(step, str) and step.isdecimal() else step
  if step in (None, "latest", "best"):
    step = (_best(checkpoints, steps) if step == "best" else None) or steps[-1]
  if step not in steps:
    there = ", ".join(map(str, steps))
    raise UserError(f"No checkpoint of step {step} in {checkpoints}; there are: {there}.")
  identity = _read_run(checkpoints / str(step)).get("identity", {})
  params = checkpoints / str(step) / "params"
  with _readable(params.parent), ocp.PyTreeCheckpointer() as reader:
    tree = reader.metadata(params).item_metadata.tree
    # To the host explicitly: the devices it was saved from need not be here.
    host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return reader.restore(params, ocp.args.PyTreeRestore(restore_args=host)), identity


def _remove(folders: Iterable[Path]) -> None:
  """Deletes folders that threads of the failed save may still be writing into for a moment."""
  for folder in folders:
    for _ in range(50):
      shutil.rmtree(folder, ignore_errors=True)
      if not folder.exists():
        break
      time.sleep(0.02)


def _best(folder: Path, steps: list[int]) -> int | None:
  """The step of lowest loss, or of whatever metric decides, among those where it was measured."""
  files = {step: folder / str(step) / "metrics" / "metrics" for step in steps}
  found = {step: read_json(file) for step, file in files.items() if file.exists()}
  worth = lambda step: [-x if lower_is_better(name) else x for name, x in found[step].items()]
  return max(found, key=worth, default=None)


def check_shapes(found, expected, source: Path) -> None:
  """Raises UserError naming the first parameter that is missing, unknown or of another shape."""
  shapes = lambda tree: {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }
  found, expected = shapes(found), shapes(expected)
  for name in [*expected, *(name for name in found if name not in expected)]:
    if found.get(name) != expected.get(name):
      here, there = expected.get(name, "no such parameter"), found.get(name, "no such parameter")
      raise UserError(
        f"The parameters of {source} are not this model's: {name} is {there} there, {here} here. "
        "Give the model config and the tokenizer (config.tokenizer.name=<run>/tokenizer.json) "
        "they were trained with."
      )


def _manager(folder: Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
  """Opens a folder of checkpoints. Orbax reads their metrics there, so damage may show here."""
  try:
    return ocp.CheckpointManager(folder, options=options)
  except (ValueError, OSError):
    for step in sorted(folder.iterdir()):
      if step.name.isdecimal():
        _verify(step)
    raise


def _read_run(folder: Path) -> dict:
  """Checks the seal and the format version; returns the `run` item."""
  if jax.process_index() == 0:
    _verify(folder)
  run = read_json(folder / "run" / "metadata")
  if run.get("format_version") != FORMAT_VERSION:
    raise UserError(
      f"The checkpoint {folder} has format version {run.get('format_version')!r}; this program "
      f"reads version {FORMAT_VERSION}. Use the release that wrote it."
    )
  return run


def _verify(folder: Path) -> None:
  """Compares a checkpoint's files with its seal."""
  try:
    sealed = json.loads((folder / _SEAL).read_text())
    damaged = next((name for name, entry in sealed.items() if entry != _entry(folder, name)), None)
  except (OSError, ValueError, AttributeError):
    damaged = _SEAL
  if damaged is not None:
    raise _damaged(folder, f"{folder / damaged} is missing, truncated or changed")


def _damaged(folder: Path, what: str) -> UserError:
  return UserError(
    f"The checkpoint of step {folder.name} is damaged: {what}. Delete the folder {folder} to go "
    "on from the checkpoint before it."
  )


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
  """Turns whatever Orbax raises on damaged files into one message."""
  with _quiet():
    try:
      yield
    except UserError:
      raise
    except Exception as error:
      raise _damaged(folder, str(error).partition("\n")[0][:300]) from error


def _listing(folder: Path) -> dict[str, list[int]]:
  files = (path for path in sorted(folder.rglob("*")) if path.is_file())
  names = [path.relative_to(folder).as_posix() for path in files]
  return {name: _entry(folder, name) for name in names if name not in _UNSEALED}


def _entry(folder: Path, name: str) -> list[int] | None:
  """[size in bytes, CRC-32] of a file; None if there is none."""
  size, crc = 0, 0
  try:
    with open(folder / name, "rb") as file:
      while block := file.read(1 << 24):
        size, crc = size + len(block), zlib.crc32(block, crc)
  except FileNotFoundError:
    return None
  return [size, crc]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Orbax logs each failure with several tracebacks before raising it; the raise is enough."""
  _drop_late_callbacks()
  level = absl.logging.get_verbosity()
  absl.logging.set_verbosity(absl.logging.FATAL)
  try:
    yield
  finally:
    absl.logging.set_verbosity(level)


@functools.cache
def _drop_late_callbacks() -> None:
  """Once one file of a checkpoint has failed, TensorStore's answers for the others find Orbax's
  event loop closed, and Python prints a traceback for each, at any time until the process ends."""
  told = sys.unraisablehook

  def hook(unraisable):
    if "Event loop is closed" not in str(unraisable.exc_value):
      told(unraisable)

  sys.unraisablehook = hook
