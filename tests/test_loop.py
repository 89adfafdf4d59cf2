"""Training runs end to end: killed, stopped, resumed, finished, refused, on any devices."""

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from llm_jax import config as config_schema
from llm_jax.errors import UserError
from llm_jax.models.spec import model_config
from llm_jax.training import inputs, loop, metrics, strategies, workdir
from llm_jax.training.checkpoints import Checkpoints, load_params
from llm_jax.training.meter import Meter

MESH = {"strategy": "mesh", "axes": {"data": 2, "fsdp": 2, "tensor": 2}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
  words = ["one", "two", "three", "four", "five", "six", "seven"]
  draw = np.random.default_rng(0)
  texts = [" ".join(draw.choice(words, draw.integers(5, 40))) for _ in range(120)]
  path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
  return path


def make_config(corpus, parallel=None):
  config = config_schema.base()
  config.model = model_config(d_model=32, repeats=1, layers={"attention": {"num_heads": 2}})
  config.steps, config.batch_size, config.seq_len = 8, 8, 16
  config.data.path, config.tokenizer.name = str(corpus), "byte"
  config.log.every, config.checkpoint.every = 1, 4
  # With Adam's usual epsilon a gradient that is zero but for rounding, such as that of a bias of
  # the keys, moves its parameter as far as any other.
  config.optimizer.epsilon = 1e-4
  config.parallel.update(parallel or {})
  return config


@pytest.fixture
def config(corpus):
  return make_config(corpus)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
  """An uninterrupted run: its folder, its result, and where it ended."""
  folder = tmp_path_factory.mktemp("whole")
  result = loop.train(make_config(corpus), folder, progress=False)
  return folder, result, final(make_config(corpus), folder)


@pytest.fixture(scope="module")
def killed_at_six(corpus, tmp_path_factory):
  """A folder as a kill at step 6 leaves it: a checkpoint of step 4, rows of 5."""
  folder = tmp_path_factory.mktemp("killed")
  kill(make_config(corpus), folder, step=6)
  return folder


@pytest.fixture
def broken(killed_at_six, tmp_path):
  """A copy of it to work on."""
  return shutil.copytree(killed_at_six, tmp_path / "broken")


class Killed(BaseException):
  pass


def kill(config, folder, step):
  """A run that dies at a step, leaving what it had written."""

  def die(at):
    if at == step:
      raise Killed

  with pytest.raises(Killed), after_each_step(die):
    loop.train(config, folder, progress=False)


@contextlib.contextmanager
def after_each_step(function):
  made = Meter.made

  def patched(self, step, *rest):
    made(self, step, *rest)
    function(step)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Meter, "made", patched)
    yield


def final(config, folder):
  """Step, state and next batch of the newest checkpoint."""
  with Checkpoints(folder, config.checkpoint) as saved:
    run = loop.Run(config, folder)
    step, state, _ = run.begin(saved)
    state = jax.device_get(run.strategy.to_checkpoint(state))
    return step, state, next(run.batches.train)


def losses(folder, split="train"):
  rows = metrics.read(folder / "metrics.jsonl")
  return {row["step"]: row["loss"] for row in rows if row["split"] == split}


def same(one, other, tolerance=0.0):
  compare = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
  jax.tree.map(compare if tolerance else np.testing.assert_array_equal, one, other)


def test_a_killed_and_resumed_run_is_the_uninterrupted_one_bit_for_bit(config, whole, broken):
  folder, result, end = whole
  with (broken / "metrics.jsonl").open("a") as file:
    file.write('{"split": "train", "st')
  assert max(losses(broken)) == 5
  resumed = loop.train(config, broken, progress=False)
  same(final(config, broken), end)
  assert (broken / "metrics.jsonl").read_text().count("\n") == 9  # 8 steps and a validation
  assert losses(broken) == losses(folder) and set(losses(folder)) == set(range(1, 9))
  assert losses(broken, "validation") == losses(folder, "validation")
  assert resumed["bits_per_byte"] == result["bits_per_byte"]
  assert resumed["tokens"] == result["tokens"] and resumed["flops"] == result["flops"]
  seconds = [row["seconds"] for row in metrics.read(broken / "metrics.jsonl")]
  assert seconds == sorted(seconds)


def test_under_the_mesh_too(corpus, whole, tmp_path):
  config, one, two = make_config(corpus, MESH), tmp_path / "one", tmp_path / "two"
  loop.train(config, one, progress=False)
  kill(config, two, step=6)
  loop.train(config, two, progress=False)
  end = final(config, one)
  same(final(config, two), end)
  assert losses(two) == losses(one)
  same(end, whole[2], tolerance=1e-6)


@pytest.mark.parametrize(("devices", "parallel"), [(2, {}), (8, MESH)], ids=["2 devices", "mesh"])
def test_a_run_resumes_on_other_devices_and_under_the_other_strategy(
  corpus, whole, broken, monkeypatch, devices, parallel
):
  make = functools.partial(strategies.make, devices=jax.devices()[:devices])
  monkeypatch.setattr(strategies, "make", make)
  config = make_config(corpus, parallel)
  loop.train(config, broken, progress=False)
  same(final(config, broken), whole[2], tolerance=1e-6)


def test_a_finished_run_touches_nothing_and_says_the_same(config, whole, tmp_path):
  folder = shutil.copytree(whole[0], tmp_path / "run")
  before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
  assert loop.train(config, folder, progress=False) == whole[1]
  assert {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before
  assert {path.name for path in folder.iterdir()} == {
    *("config.json", "environment.json", "metrics.jsonl", "tensorboard", "checkpoints", "log"),
    *("tokenizer.json", "result.json"),
  }
  # Killed between the last save and its result: nothing is computed again.
  (folder / "result.json").unlink()
  rows = (folder / "metrics.jsonl").read_text()
  assert loop.train(config, folder, progress=False) == whole[1]
  assert (folder / "metrics.jsonl").read_text() == rows
  # What makes a checkpoint the best.
  measured = workdir.read_json(folder / "checkpoints" / "8" / "metrics" / "metrics")
  assert measured == {"loss": whole[1]["loss"]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_finishes_the_step_saves_and_the_run_goes_on_from_there(
  config, whole, tmp_path, number
):
  handler = signal.getsignal(number)
  send = lambda step: os.kill(os.getpid(), number) if step == 2 else None
  saved = f"{number.name} after step 2 of 8; the run is saved"
  with pytest.raises(loop.Stopped, match=saved), after_each_step(send):
    loop.train(config, tmp_path, progress=False)
  assert signal.getsignal(number) is handler
  assert not (tmp_path / "lock").exists()
  loop.train(config, tmp_path, progress=False)
  assert losses(tmp_path) == losses(whole[0])


def test_ten_updates_that_are_not_finite_stop_the_run_and_say_where(config, tmp_path):
  config.steps, config.schedule.name, config.schedule.warmup_fraction = 40, "constant", 0.0
  config.optimizer.learning_rate, config.optimizer.weight_decay = 1e30, 0.0
  with pytest.raises(loop.Failed) as error:
    loop.train(config, tmp_path, progress=False)
  text = str(error.value)
  assert "10 updates in a row" in text and "stopped at step 1" in text
  assert "Documents of its batch: " in text
  assert "stack/0/" in text.partition("Largest activations: ")[2]
  rows = metrics.read(tmp_path / "metrics.jsonl")
  assert rows[-1]["skipped"] == 10 and rows[-1]["loss"] is None
  assert not (tmp_path / "result.json").exists()


def expected_bits(config, loss):
  """Bits per byte of the validation text, every byte and end mark of which is a target."""
  ((held_out, _),) = inputs.load_text(config).validation
  targets = sum(len(text.encode()) + 1 for text in held_out.documents)
  return pytest.approx(loss * targets / np.log(2) / held_out.num_bytes, rel=1e-12)


def test_bits_per_byte_are_the_nats_of_all_targets_over_the_bytes_of_the_text(config, whole):
  assert whole[1]["bits_per_byte"] == expected_bits(config, whole[1]["loss"])


def test_a_run_without_checkpoints_writes_none_and_may_evaluate_a_part(config, whole, tmp_path):
  config.checkpoint.every, config.eval.batches = 0, 1
  result = loop.train(config, tmp_path, progress=False)
  assert not list((tmp_path / "checkpoints").iterdir())
  assert losses(tmp_path) == losses(whole[0]) and result["loss"] != whole[1]["loss"]
  assert result["bits_per_byte"] == expected_bits(config, result["loss"])


def test_init_from_starts_at_the_parameters_of_another_run(config, whole, tmp_path):
  config.init_from, config.checkpoint.every = str(whole[0]), 8
  config.optimizer.learning_rate = 0.0
  loop.train(config, tmp_path / "second", progress=False)
  same(load_params(tmp_path / "second"), load_params(whole[0]))
  config.model.d_model = 64
  with pytest.raises(UserError, match=r"embed/.*is \(257, 32\) there, \(257, 64\) here"):
    loop.train(config, tmp_path / "third", progress=False)
  assert not (tmp_path / "third" / "config.json").exists()  # the mended config may have the folder


def test_a_tokenizer_of_another_vocabulary_is_refused_before_the_first_step(config, broken):
  definition = json.loads((broken / "tokenizer.json").read_text())
  token = {**definition["added_tokens"][0], "id": 257, "content": "<extra>"}
  definition["added_tokens"].append(token)
  workdir.write_json(broken / "tokenizer.json", definition)
  with pytest.raises(UserError, match=r"vocabulary of 257 tokens.*tokenizer\.json has 258"):
    loop.train(config, broken, progress=False)


def test_a_tokenizer_with_other_ids_is_refused_too(config, broken):
  definition = json.loads((broken / "tokenizer.json").read_text())
  vocab = definition["model"]["vocab"]
  vocab["e"], vocab["o"] = vocab["o"], vocab["e"]
  workdir.write_json(broken / "tokenizer.json", definition)
  with pytest.raises(UserError, match=r"tokenizer\.json of .* is not the one"):
    loop.train(config, broken, progress=False)


def test_another_text_than_the_run_began_with_is_refused(config, broken, corpus, tmp_path):
  before = corpus.read_text()
  try:
    corpus.write_text(before.replace("three", "3"))
    with pytest.raises(UserError, match=r"training text of .* is not the one"):
      loop.train(config, broken, progress=False)
  finally:
    corpus.write_text(before)


WORKER = """
import json, os, sys
import jax
folder, config, process, port = sys.argv[1:]
jax.config.update("jax_compilation_cache_dir", os.environ["CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
if port != "none":
  jax.distributed.initialize(f"localhost:{port}", 2, int(process))
from ml_collections import ConfigDict
from llm_jax.training import loop, workdir
loop.train(workdir.read_config(config), folder, progress=False)
"""


def worker(config, folder, process=0, port="none", devices=8):
  """A process that trains on its own."""
  configs = folder.parent / "config"
  configs.mkdir(exist_ok=True)
  workdir.write_json(configs / "config.json", config.to_dict())
  count = "--xla_force_host_platform_device_count="
  flags = os.environ["XLA_FLAGS"].replace(f"{count}8", f"{count}{devices}")  # else other programs
  environment = {**os.environ, "XLA_FLAGS": flags, "CACHE": jax.config.jax_compilation_cache_dir}
  command = [sys.executable, "-c", WORKER, folder, configs, str(process), str(port)]
  return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_kill_9_in_the_middle_of_a_save_loses_nothing_before_it(config, whole, tmp_path):
  config.checkpoint.every = 1
  folder = tmp_path / "run"
  finished = lambda: [int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdecimal()]
  with worker(config, folder) as process:
    while process.poll() is None:
      if finished() and list(folder.glob("checkpoints/*tmp*")):
        break
    process.kill()
    process.communicate()
  saved = max(finished())
  assert 0 < saved < 8 and (folder / "lock").exists()
  loop.train(config, folder, progress=False)
  assert f"resumed after step {saved}" in (folder / "log").read_text()
  same(final(config, folder), whole[2])
  assert losses(folder) == losses(whole[0])


@pytest.mark.parametrize(
  "parallel", [{}, pytest.param(MESH, marks=pytest.mark.slow)], ids=["pmap", "mesh"]
)
def test_two_processes_have_the_loss_curve_of_one(corpus, whole, tmp_path, parallel):
  config = make_config(corpus, parallel)
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  folder = tmp_path / "run"
  both = [worker(config, folder, process, port, devices=4) for process in (0, 1)]
  for process in both:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
  one, two = losses(whole[0]), losses(folder)
  np.testing.assert_allclose([two[step] for step in one], list(one.values()), rtol=1e-5)
  same(load_params(folder), load_params(whole[0]), tolerance=1e-6)


def test_a_mistake_leaves_nothing_that_the_mended_config_is_refused_for(config, tmp_path):
  good = config.data.path
  config.data.path = str(tmp_path / "misspelt.txt")
  with pytest.raises(UserError, match="misspelt"):
    loop.train(config, tmp_path / "run", progress=False)
  config.data.path, config.batch_size = good, 7
  with pytest.raises(UserError, match="batch_size"):
    loop.train(config, tmp_path / "run", progress=False)
  assert [path.name for path in (tmp_path / "run").iterdir()] == ["log"]
  config.batch_size, config.steps, config.checkpoint.every = 8, 1, 0
  loop.train(config, tmp_path / "run", progress=False)
