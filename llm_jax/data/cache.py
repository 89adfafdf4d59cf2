"""Where derived data is kept between runs, written so that nobody reads half a file."""

import logging
import os
from pathlib import Path

from llm_jax.writing import whole_file

logger = logging.getLogger(__name__)


def folder(cache_dir: str | os.PathLike | None = None) -> Path:
  """`cache_dir`, or llm_jax under XDG_CACHE_HOME, or ~/.cache/llm_jax. It may not exist yet."""
  if cache_dir is not None:
    return Path(cache_dir)
  return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm_jax"


def write_atomically(path: Path, text: str) -> None:
  """`whole_file`, whose folder is made.

  Raises:
    OSError: the folder cannot be made or written, or the disk is full.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with whole_file(path) as file:
    file.write(text.encode())


def keep(path: Path, text: str) -> None:
  """Like `write_atomically`, but a cache that cannot be written costs time only: it is logged."""
  try:
    write_atomically(path, text)
  except OSError as error:
    logger.warning("could not keep %s: %s", path, error)
