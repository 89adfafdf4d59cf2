"""Files written whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".writing-"  # how the name of what is not yet whole begins


def unfinished(path: Path) -> Path:
  """Where this process makes what shall stand at `path`: beside it, or it could not be moved."""
  return path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
  """A file to write into, which stands at `path` once all of it is on the disk: a reader never sees
  half of it, whenever we die; of several processes that do so at once, the last one wins.

  Raises:
    OSError: it cannot be written, or the disk is full; what was at `path` is still there.
  """
  temporary = unfinished(path)
  try:
    with open(temporary, "wb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
