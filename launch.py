"""The only entry point: `python launch.py --help` explains each verb."""

import ctypes
import os
import sys


def keep_memory() -> None:
  """Tells glibc to keep large buffers: giving them back costs a quarter of a step in page faults.

  Must run before JAX allocates. Other C libraries have no mallopt, and nothing happens there.
  """
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
  for option, value in ((-4, 0), (-1, 2**31 - 1), (-8, 1)) if mallopt else ():
    mallopt(option, value)  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX


if __name__ == "__main__":
  keep_memory()
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  from llm_jax.command_line import main

  sys.exit(main(sys.argv[1:]))
