"""Where derived data is kept between runs, written so that nobody reads half a file."""

import logging
import os
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)


def folder(cache_dir: str | os.PathLike | None = None) -> Path:
  """`cache_dir`, or llm_jax under XDG_CACHE_HOME, or ~/.cache/llm_jax. It may not exist yet."""
  if cache_dir is not None:
    return Path(cache_dir)
  return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm_jax"


def write_atomically(path: Path, text: str) -> None:
  """Writes the whole file or nothing; of several processes that do so at once, the last one wins.

  Raises:
    OSError: the folder cannot be made or written, or the disk is full.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
  try:
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
      file.write(text)
    # mkstemp makes private files; a run folder's files are as readable as any other.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise


def keep(path: Path, text: str) -> None:
  """Like `write_atomically`, but a cache that cannot be written costs time only: it is logged."""
  try:
    write_atomically(path, text)
  except OSError as error:
    logger.warning("could not keep %s: %s", path, error)
