"""One process with eight forced host devices, strict ranks and a persistent compilation cache."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

import jax
import pytest

CACHE = pathlib.Path(
  os.environ.get("JAX_COMPILATION_CACHE_DIR", pathlib.Path.home() / ".cache/llm_jax/jax")
)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def shared_folder():
  """The folder of real data and checkpoints, where there is one."""
  folder = os.environ.get("LLM_JAX_SHARED", "")
  if not folder or not pathlib.Path(folder).is_dir():
    pytest.skip("LLM_JAX_SHARED names no folder of real data")
  return pathlib.Path(folder).resolve()


@pytest.fixture
def quick_compilation():
  """For programs that run once or twice: compiling them quickly saves more than they lose."""
  from tests.parity import harness

  with harness.quick_compilation():
    yield
