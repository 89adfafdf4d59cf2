"""Who works on which trial: one process at a time, and a dead one's trial is free again.

A claim is a file under flock, so that the kernel gives back what a killed process held; file
systems that hosts share carry flock too. A process of another host may yet live where flock does
not reach it (a mount without it, a server that lost its locks): what it holds is free only once
its heartbeat, the file's time of change, has stood still while we watched.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_BEAT = 10.0  # seconds between two signs of life
_SILENCE = 60.0  # without one, after which a process of another host is given up


class Claims:
  """The claims of a sweep, as one process sees them.

  Args:
    folder: the sweep's.
  """

  def __init__(self, folder: Path):
    self._folder = folder / "claims"
    self._folder.mkdir(exist_ok=True)
    self._beats: dict[int, tuple[int, float]] = {}  # of other hosts: the last one, when first seen

  def free(self, number: int) -> bool:
    """Whether nobody alive works on a trial."""
    with self._open(number) as file:
      return file is not None

  @contextlib.contextmanager
  def take(self, number: int) -> Iterator[dict | None]:
    """Holds a trial until the end of the block.

    Yields:
      None if someone alive holds it; else what the last holder left: {} if it had ended well, else
      who it was that died.
    """
    with self._open(number) as file:
      if file is None:
        yield None
        return
      left = _read(file)
      _write(file, {"host": socket.gethostname(), "pid": os.getpid()})
      done = threading.Event()
      beating = threading.Thread(target=_beat, args=(file.fileno(), done), daemon=True)
      beating.start()
      try:
        yield left
        _write(file, {})
      except Exception:  # but not what kills: the next one shall know
        _write(file, {})
        raise
      finally:
        done.set()
        beating.join()

  @contextlib.contextmanager
  def _open(self, number):
    """The file under flock; None if another holds it, or may."""
    descriptor = os.open(self._folder / str(number), os.O_RDWR | os.O_CREAT, 0o644)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        yield None
        return
      yield file if self._left(number, file) else None

  def _left(self, number, file):
    """Whether the holder that the file names, if it names one, is surely gone."""
    holder = _read(file)
    if holder.get("host", socket.gethostname()) == socket.gethostname() or holder.get("gone"):
      return True
    beat, now = os.fstat(file.fileno()).st_mtime_ns, time.monotonic()
    last, since = self._beats.setdefault(number, (beat, now))
    if beat != last:
      self._beats[number] = (beat, now)
    elif now - since > _SILENCE:
      _write(file, holder | {"gone": True})  # the others need not watch as long again
      return True
    return False


def _beat(descriptor: int, done: threading.Event) -> None:
  while not done.wait(_BEAT):
    with contextlib.suppress(OSError):
      os.utime(descriptor)


def _read(file) -> dict:
  file.seek(0)
  try:
    return json.loads(file.read() or "{}")
  except ValueError:  # of one killed while it wrote
    return {}


def _write(file, value: dict) -> None:
  file.seek(0)
  file.truncate()
  file.write(json.dumps(value))
  file.flush()
