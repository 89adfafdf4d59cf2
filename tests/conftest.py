"""Tests run on eight forced host devices, with strict ranks, and programs compiled in haste."""

import gc
import importlib.metadata
import itertools
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most programs of tests run once: compiling them takes longer than they do. In the environment,
# for the processes that tests start.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
_FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_cpu_parallel_codegen_split_count=1"]
if importlib.metadata.version("jaxlib") < "0.11":  # later ones know no such flag
  _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS])

import jax
import pytest

CACHE = pathlib.Path(
  os.environ.get("JAX_COMPILATION_CACHE_DIR", pathlib.Path.home() / ".cache/llm_jax/jax")
)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_numpy_rank_promotion", "raise")

_FINISHED = itertools.count(1)
_MOST_MAPS = 20_000  # of memory; Linux ends a process that asks for more than 65,530


@pytest.fixture(autouse=True)
def few_memory_maps():
  """Drops compiled programs before they take all memory maps: XLA:CPU makes some for each."""
  yield
  if next(_FINISHED) % 10 == 0 and _memory_maps() > _MOST_MAPS:
    jax.clear_caches()
    gc.collect()


def _memory_maps() -> int:
  maps = pathlib.Path("/proc/self/maps")  # of Linux alone
  return maps.read_bytes().count(b"\n") if maps.exists() else 0


@pytest.fixture
def shared_folder():
  """The folder of real data and checkpoints, where there is one."""
  folder = os.environ.get("LLM_JAX_SHARED", "")
  if not folder or not pathlib.Path(folder).is_dir():
    pytest.skip("LLM_JAX_SHARED names no folder of real data")
  return pathlib.Path(folder).resolve()
