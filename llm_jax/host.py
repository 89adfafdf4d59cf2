"""What a process asks of the machine it runs on, before JAX allocates anything."""

import ctypes
import sys


def keep_memory() -> None:
  """Tells glibc to keep large buffers: giving them back costs a quarter of a step in page faults.

  Other C libraries have no mallopt, and nothing happens there.
  """
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
  for option, value in ((-4, 0), (-1, 2**31 - 1), (-8, 1)) if mallopt else ():
    mallopt(option, value)  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX
