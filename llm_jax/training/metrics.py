"""What a run tells while it runs: metrics.jsonl, TensorBoard events, the log and the progress bar.

Only process 0 of a run has a `Metrics`; the others hold None and stay silent.
"""

import contextlib
import json
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

_SECONDS_BETWEEN_LINES = 10.0  # of the plain progress lines; metrics.jsonl gets every row
_SHOWN = ("loss", "bits_per_byte", "tokens_per_second", "learning_rate", "grad_norm")


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
  """Writes every row to metrics.jsonl and TensorBoard, and shows the run to whoever watches.

  Args:
    folder: the run folder.
    steps: how many the run will have.
    start: the restored step; rows of later ones are removed, for they will be made again.
    progress: False shows nothing on the terminal (the files are written all the same).
  """

  def __init__(self, folder: Path, steps: int, start: int, progress: bool):
    self._folder = folder
    self._shown_at = -_SECONDS_BETWEEN_LINES
    with disk_errors(folder):
      kept = [line for line, row in _rows(folder / "metrics.jsonl") if row["step"] <= start]
      write_text(folder / "metrics.jsonl", "".join(line + "\n" for line in kept))
      self._open = stack = contextlib.ExitStack()
      self._file = stack.enter_context(open(folder / "metrics.jsonl", "a", encoding="utf-8"))
      self._log = stack.enter_context(open(folder / "log", "a", encoding="utf-8"))
      (folder / "tensorboard").mkdir(exist_ok=True)
      # Its own writer thread would swallow a full disk and then block; this one writes here.
      prefix = folder / "tensorboard" / "events"
      self._events = EventsWriter(str(prefix), filename_suffix=f".{os.getpid()}")
      self._open.callback(self._events.close)
      self._event(start, session_log=SessionLog(status=SessionLog.START))
    # stderr, so that what a command prints as its result can be piped.
    self._console = Console(stderr=True, quiet=not progress)
    self._bar = None
    if self._console.is_terminal and progress:
      self._bar = _bar(self._console)
      self._task = self._bar.add_task(folder.name, total=steps, completed=start, loss="", speed="")
      self._bar.start()
    self._steps = steps

  def row(self, split: str, step: int, **values: float) -> None:
    """Writes one row. Values are written unrounded, NaN as null: JSON has no NaN."""
    finite = {name: value if _is_finite(value) else None for name, value in values.items()}
    line = json.dumps({"split": split, "step": step} | finite)
    with disk_errors(self._folder):
      self._file.write(line + "\n")
      self._file.flush()
      for name, value in values.items():
        self._event(step, summary=scalar(f"{split}/{name}", value))
    shown = [f"{name} {values[name]:.5g}" for name in _SHOWN if name in values]
    text = f"{split:10} step {step}/{self._steps}  " + "  ".join(shown)
    self._write_log(text)
    late = time.monotonic() - self._shown_at > _SECONDS_BETWEEN_LINES
    if split != "train" or (self._bar is None and (late or step == self._steps)):
      self._shown_at = time.monotonic()
      self._console.print(text, highlight=False)

  def progress(self, step: int, loss: float, tokens_per_second: float) -> None:
    """Moves the bar; called each step."""
    if self._bar is not None:
      speed = f"{tokens_per_second:,.0f} tokens/s" if tokens_per_second else ""
      self._bar.update(self._task, completed=step, loss=f"loss {loss:.3f}", speed=speed)

  def message(self, text: str, show: bool = True) -> None:
    """A line for the log, and for whoever watches unless `show` is False."""
    self._write_log(text)
    if show:
      self._console.print(text, highlight=False, markup=False)

  def close(self) -> None:
    """Takes the bar off the screen and closes the files."""
    if self._bar is not None:
      self._bar.stop()
    with disk_errors(self._folder):
      self._open.close()

  def _event(self, step: int, **content) -> None:
    self._events.write_event(Event(wall_time=time.time(), step=step, **content))
    self._events.flush()

  def _write_log(self, text: str) -> None:
    with disk_errors(self._folder):
      self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
      self._log.flush()


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
