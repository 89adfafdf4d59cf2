"""Checkpoints: what is kept, and what damaged files and a full disk come to."""

import contextlib
import errno
import os
import shutil
import subprocess

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from llm_jax.errors import UserError
from llm_jax.training.checkpoints import Checkpoints, load_params
from llm_jax.training.step import TrainState


def options(**changes):
  return ConfigDict({"every": 1, "keep": 2, "keep_best": 1} | changes)


def state(step, size=64):
  numbers = np.random.default_rng(step).normal(size=size).astype(np.float32)
  counter = np.int32(step)
  return TrainState(
    step=counter,
    params={"embed": {"kernel": numbers}},
    opt_state=({"mu": numbers * 2}, counter),
    key=np.array([0, step], np.uint32),
    skipped=counter,
    skipped_in_a_row=counter,
    schedule=None,  # comes from the config
  )


def save(folder, steps, losses=(), size=64, **changes):
  with Checkpoints(folder, options(**changes)) as saved:
    for step in steps:
      saved.save(step, state(step, size), {"place": step}, dict(losses).get(step))


def restore(folder, step=None):
  with Checkpoints(folder, options()) as saved:
    step = saved.latest() if step is None else step
    run = saved.read(step)
    return saved.restore(step, jax.eval_shape(lambda: state(step))), run


def kept(folder):
  return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def test_everything_that_was_saved_comes_back_bit_for_bit(tmp_path):
  save(tmp_path, [3])
  found, run = restore(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, found, state(3))
  assert run["place"] == 3


def test_the_newest_and_the_best_are_kept(tmp_path):
  save(tmp_path, range(1, 7), losses=[(2, 1.0), (3, 0.5), (4, 2.0)])
  assert kept(tmp_path) == [3, 5, 6]
  np.testing.assert_array_equal(
    load_params(tmp_path, "best")["embed"]["kernel"], state(3).params["embed"]["kernel"]
  )
  np.testing.assert_array_equal(
    load_params(tmp_path)["embed"]["kernel"], state(6).params["embed"]["kernel"]
  )


def test_a_loss_that_is_not_finite_is_never_the_best(tmp_path):
  nan = float("nan")
  save(tmp_path, range(1, 6), losses=[(1, nan), (2, 3.0), (3, nan), (4, 9.0)], keep=1)
  assert kept(tmp_path) == [2, 5]


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(tmp_path):
  save(tmp_path, [1, 2])
  with pytest.raises(UserError, match=r"step 9.*1, 2"):
    load_params(tmp_path, 9)
  with pytest.raises(UserError, match="Expected checkpoints"):
    load_params(tmp_path / "elsewhere")


def test_every_damaged_file_is_found_and_named_never_passed_over(tmp_path):
  save(tmp_path, [1, 2])
  newest = tmp_path / "checkpoints" / "2"
  sealed = [p for p in newest.rglob("*") if p.is_file() and p.parent != newest]
  for path in [*sealed, newest / "files.json"]:
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), None):
      path.unlink() if damaged is None else path.write_bytes(damaged)
      with pytest.raises(UserError) as error:
        restore(tmp_path)
      text = str(error.value)
      assert "step 2 is damaged" in text and str(path) in text
      assert f"Delete the folder {newest}" in text
      with pytest.raises(UserError, match="step 2 is damaged"):
        load_params(tmp_path)
      path.write_bytes(whole)
  shutil.rmtree(newest)
  assert restore(tmp_path)[1]["place"] == 1


def test_other_parameters_than_the_models_are_refused_by_name(tmp_path):
  save(tmp_path, [1])
  with Checkpoints(tmp_path, options()) as saved:
    abstract = jax.eval_shape(lambda: state(1, size=65))
    with pytest.raises(UserError, match=r"embed/kernel is \(64,\) there, \(65,\) here"):
      saved.restore(1, abstract)


def test_another_format_version_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr("llm_jax.training.checkpoints.FORMAT_VERSION", 99)
  save(tmp_path, [1])
  monkeypatch.undo()
  with pytest.raises(UserError, match="format version 99"):
    restore(tmp_path)


def test_a_save_that_was_cut_short_is_cleared_away(tmp_path):
  save(tmp_path, [1])
  unfinished = tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp"
  shutil.copytree(tmp_path / "checkpoints" / "1", unfinished)
  save(tmp_path, [2])
  assert kept(tmp_path) == [1, 2]
  assert restore(tmp_path)[1]["place"] == 2


def test_a_full_disk_in_the_background_is_told_and_costs_no_checkpoint(tmp_path, monkeypatch):
  save(tmp_path, [1])

  def full(self):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(Checkpoints, "_seal", full)
  with pytest.raises(UserError, match="disk is full"):
    save(tmp_path, [2])
  assert kept(tmp_path) == [1]
  assert restore(tmp_path)[1]["place"] == 1


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 2 MB."""
  folder = tmp_path / "disk"
  folder.mkdir()
  command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]
  mounted = os.geteuid() == 0 and shutil.which("mount")
  if not mounted or subprocess.run(command, capture_output=True).returncode:
    pytest.skip("mounting a small file system takes root")
  yield folder
  subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_leaves_the_earlier_checkpoints_whole(small_disk):
  with pytest.raises(UserError, match="disk is full"):
    save(small_disk, [1, 2, 3, 4], size=150_000, keep=9)
  newest = max(kept(small_disk))
  with contextlib.suppress(OSError):  # the space of the unfinished save was given back
    (small_disk / "filler").write_bytes(bytes(100_000))
  assert (small_disk / "filler").stat().st_size == 100_000
  np.testing.assert_array_equal(
    load_params(small_disk)["embed"]["kernel"], state(newest, 150_000).params["embed"]["kernel"]
  )
