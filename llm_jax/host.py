"""What a process asks of the machine it runs on, before JAX allocates anything."""

import ctypes
import os
import signal
import sys

_PARENT_DEATH_SIGNAL = 1  # prctl's option, Linux


def keep_memory() -> None:
  """Tells glibc to keep large buffers: giving them back costs a quarter of a step in page faults.

  Other C libraries have no mallopt, and nothing happens there.
  """
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
  for option, value in ((-4, 0), (-1, 2**31 - 1), (-8, 1)) if mallopt else ():
    mallopt(option, value)  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX


def pin(processors: str) -> None:
  """Keeps this process on these, such as "0,2" ("": all); before JAX counts its threads."""
  if processors and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, map(int, processors.split(",")))


def end_with(parent: int) -> bool:
  """SIGTERM comes when the parent dies, so that one that is killed leaves nobody training on.

  Args:
    parent: its process id.

  Returns:
    False if it is dead already.
  """
  if sys.platform == "linux":
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    return os.getppid() == parent
  return True
