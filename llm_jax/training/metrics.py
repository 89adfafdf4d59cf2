"""What a run tells while it runs: metrics.jsonl, TensorBoard events, the log and the progress bar.

Only process 0 of a run tells anything.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  SpinnerColumn,
  TextColumn,
  TimeRemainingColumn,
)
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from llm_jax.training.workdir import disk_errors, write_text

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0  # on a terminal that is none; metrics.jsonl and log get every row
_SHOWN = ("loss", "accuracy", "bits_per_byte", "tokens_per_second", "learning_rate", "grad_norm")


@contextlib.contextmanager
def run_log(folder: Path, progress: bool) -> Iterator[Console]:
  """Sends what llm_jax logs to the run's `log`, and shows it unless `progress` is False.

  Yields:
    the terminal: stderr, so that what a command prints as its result can be piped.
  """
  console = Console(stderr=True, quiet=not progress)
  shown = _Shown(console)
  with disk_errors(folder):
    kept = logging.FileHandler(folder / "log", encoding="utf-8")
  kept.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
  # A full disk is told by the next row of metrics; logging would print tracebacks instead.
  kept.handleError = lambda record: None
  logger = logging.getLogger("llm_jax")
  level, propagate = logger.level, logger.propagate
  logger.setLevel(logging.DEBUG)
  logger.propagate = False  # absl, which Orbax brings, prints all that reaches the root
  for handler in (kept, shown):
    logger.addHandler(handler)
  try:
    yield console
  finally:
    logger.setLevel(level)
    logger.propagate = propagate
    for handler in (kept, shown):
      logger.removeHandler(handler)
    with contextlib.suppress(OSError):
      kept.close()


class _Shown(logging.Handler):
  """Prints above the progress bar. Lines stay whole: a log that wraps at 80 is hard to search."""

  def __init__(self, console: Console):
    super().__init__(logging.INFO)
    self._console = console

  def emit(self, record):
    self._console.print(self.format(record), soft_wrap=True, highlight=False, markup=False)


def read(path: Path) -> list[dict]:
  """The rows of a metrics.jsonl. A half line, left by a process that was killed, is passed over."""
  return [row for _, row in _rows(path)]


def _rows(path: Path) -> Iterator[tuple[str, dict]]:
  """(line, row) of each whole row."""
  if not path.exists():
    return
  for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
    try:
      row = json.loads(line)
    except ValueError:
      continue
    if isinstance(row, dict) and isinstance(row.get("step"), int):
      yield line, row


class Metrics:
  """Writes every row to metrics.jsonl, TensorBoard and the log, and moves the progress bar.

  Use as a context manager.

  Args:
    folder: the run folder.
    steps: how many the run will have.
    start: the restored step; rows of later ones are removed, for they will be made again.
    console: where the bar is drawn, if it is a terminal; else a line is printed now and then.
  """

  def __init__(self, folder: Path, steps: int, start: int, console: Console):
    self._folder, self._steps = folder, steps
    self._shown_at = -_SECONDS_BETWEEN_LINES
    with disk_errors(folder), contextlib.ExitStack() as stack:
      kept = [line for line, row in _rows(folder / "metrics.jsonl") if row["step"] <= start]
      write_text(folder / "metrics.jsonl", "".join(line + "\n" for line in kept))
      self._file = stack.enter_context((folder / "metrics.jsonl").open("a", encoding="utf-8"))
      (folder / "tensorboard").mkdir(exist_ok=True)
      # tensorboardX's own thread would swallow a full disk and then block; this one writes here.
      prefix = folder / "tensorboard" / "events"
      self._events = EventsWriter(str(prefix), filename_suffix=f".{os.getpid()}")
      stack.callback(self._events.close)
      self._event(start + 1, session_log=SessionLog(status=SessionLog.START))
      self._bar = None
      if console.is_terminal and not console.quiet:
        self._bar = stack.enter_context(_bar(console))
        self._task = self._bar.add_task(
          folder.name, total=steps, completed=start, loss="", speed=""
        )
      self._open = stack.pop_all()

  def row(self, split: str, step: int, **values: float) -> None:
    """Writes one row. Values are written unrounded, NaN and infinity as null: JSON has neither."""
    finite = {name: value if _is_finite(value) else None for name, value in values.items()}
    line = json.dumps({"split": split, "step": step} | finite)
    with disk_errors(self._folder):
      self._file.write(line + "\n")
      self._file.flush()
      for name, value in finite.items():
        if value is not None:
          self._event(step, summary=scalar(f"{split}/{name}", value))
    shown = [f"{name} {values[name]:.5g}" for name in _SHOWN if name in values]
    _log.log(
      self._level(split, step), "%s", f"{split} step {step}/{self._steps}: {', '.join(shown)}"
    )

  def _level(self, split: str, step: int) -> int:
    """INFO is shown, DEBUG goes to the log file only: the bar shows what training rows say."""
    now = time.monotonic()
    late = now - self._shown_at >= _SECONDS_BETWEEN_LINES
    if split == "train" and (self._bar is not None or not (late or step == self._steps)):
      return logging.DEBUG
    self._shown_at = now
    return logging.INFO

  def progress(self, step: int, loss: float, tokens_per_second: float | None) -> None:
    """Moves the bar; called each step."""
    if self._bar is not None:
      speed = f"{tokens_per_second:,.0f} tokens/s" if tokens_per_second else ""
      self._bar.update(self._task, completed=step, loss=f"loss {loss:.3f}", speed=speed)

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback):
    if error is None:
      with disk_errors(self._folder):
        self._open.close()
    else:  # the first error is the one to tell
      with contextlib.suppress(OSError):
        self._open.close()

  def _event(self, step: int, **content) -> None:
    self._events.write_event(Event(wall_time=time.time(), step=step, **content))
    self._events.flush()


def _is_finite(value: float) -> bool:
  return value - value == 0  # false for NaN and both infinities


def _bar(console: Console) -> Progress:
  return Progress(
    SpinnerColumn(),
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("{task.fields[loss]}"),
    TextColumn("{task.fields[speed]}"),
    TimeRemainingColumn(),
    console=console,
    refresh_per_second=4,
  )
