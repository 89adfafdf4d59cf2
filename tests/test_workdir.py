"""The run folder: its lock, and what it refuses to be written into."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest

from llm_jax import config as config_schema
from llm_jax.errors import UserError
from llm_jax.training import workdir

HOLDER = """
import sys, time
from pathlib import Path
from llm_jax.training import workdir
with workdir.lock(Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(60)
"""


def owner(**changes):
  return json.dumps({**workdir._identity(), **changes})


def test_a_live_process_keeps_others_out_and_a_killed_one_does_not(tmp_path):
  with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE) as holder:
    assert holder.stdout.readline() == b"held\n"
    found = rf"process {holder.pid} on host {re.escape(socket.gethostname())}"
    with pytest.raises(UserError, match=found), workdir.lock(tmp_path):
      pass
    assert json.loads((tmp_path / "lock").read_text())["pid"] == holder.pid
    holder.kill()
    holder.wait()
  with workdir.lock(tmp_path):
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
  assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize(
  "content", [owner(started="1"), '{"pid": 12', ""], ids=["another process's pid", "half", "empty"]
)
def test_a_lock_of_nobody_alive_is_taken_over(tmp_path, content):
  (tmp_path / "lock").write_text(content)
  with workdir.lock(tmp_path):
    assert json.loads((tmp_path / "lock").read_text()) == json.loads(owner()) | {
      "since": json.loads((tmp_path / "lock").read_text())["since"]
    }


def test_a_lock_of_another_host_is_believed_and_left_in_place(tmp_path):
  (tmp_path / "lock").write_text(owner(host="elsewhere", pid=1))
  found = "process 1 on host elsewhere.*delete"
  with pytest.raises(UserError, match=found), workdir.lock(tmp_path):
    pass
  assert "elsewhere" in (tmp_path / "lock").read_text()


def test_the_lock_is_given_back_when_the_run_fails(tmp_path):
  with pytest.raises(ZeroDivisionError), workdir.lock(tmp_path / "new"):
    raise ZeroDivisionError
  assert not (tmp_path / "new" / "lock").exists()


def stored(folder, **changes):
  config = config_schema.base()
  workdir.write_json(folder / "config.json", config.to_dict() | changes)
  return config


def test_another_configs_run_is_refused_with_the_keys_that_differ(tmp_path):
  config = stored(tmp_path)
  config.optimizer.learning_rate = 0.5
  config.seed = 7
  with pytest.raises(UserError) as error:
    workdir.check(tmp_path, config)
  for part in ("optimizer.learning_rate: 0.004 there, 0.5 here", "seed: 0 there, 7 here"):
    assert part in str(error.value)
  assert "--workdir" in str(error.value)


def test_what_changes_no_result_may_differ_on_resuming(tmp_path):
  config = stored(tmp_path)
  config.log.every, config.eval.every = 1, 3
  config.checkpoint.every, config.checkpoint.keep = 7, 9
  config.parallel.strategy, config.parallel.axes.fsdp = "mesh", 2
  workdir.check(tmp_path, config)


def test_a_stored_config_reads_back_equal(tmp_path):
  config = config_schema.base()
  config.data.mixture = (("a.txt", 1.0), ("b.txt", 0.5))
  workdir.write_json(tmp_path / "config.json", config.to_dict())
  assert workdir.read_config(tmp_path) == config


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda folder: (folder / "thesis.tex").write_text("x"), r"no run.*thesis\.tex"),
    (lambda folder: stored(folder, version=99), "format version 99"),
    (lambda folder: (folder / "config.json").write_text('{"seed"'), "config.json"),
  ],
  ids=["foreign files", "another format", "half a config"],
)
def test_a_folder_that_is_no_run_of_ours_is_refused_untouched(tmp_path, make, message):
  make(tmp_path)
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  with pytest.raises(UserError, match=message):
    workdir.check(tmp_path, config_schema.base())
  assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_start_that_was_killed_early_does_not_block_the_next(tmp_path):
  for name in ("lock", "log", ".writing-config.json-1"):
    (tmp_path / name).write_text("")
  workdir.check(tmp_path, config_schema.base())


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path, monkeypatch):
  path = tmp_path / "a.json"
  workdir.write_json(path, 1)

  def full(descriptor):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(UserError, match=r"[Dd]isk is full"):
    workdir.write_json(path, 2)
  assert workdir.read_json(path) == 1
  assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_the_environment_names_versions_devices_and_command():
  found = workdir.environment()
  assert found["packages"].keys() >= {"jax", "flax", "optax", "orbax-checkpoint"}
  assert len(found["devices"]) == 8
  assert found["cpu"] and found["command"][1:] == sys.argv
