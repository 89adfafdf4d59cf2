"""Sweeps end to end: every trial is run once, whatever is killed, stopped or wrong."""

import contextlib
import csv
import json
import os
import signal
import time

import pytest

from llm_jax import command_line
from llm_jax import config as config_schema
from llm_jax.sweeps import manager, worker
from llm_jax.sweeps import sweep as sweeps
from llm_jax.training import loop, workdir
from llm_jax.training.meter import Meter
from llm_jax.training.programs import Programs
from tests import sweeping

PROGRAMS = Programs()  # all runs here differ in numbers


class Killed(BaseException):
  pass


class Here:
  """A crew of one, which works in this process; it is killed by `Killed`."""

  size = 1
  running = 0

  def __init__(self, folder, places):
    self._folder, self._codes = folder, []

  def start(self):
    handler = signal.getsignal(signal.SIGTERM)
    try:
      code = worker.main(self._folder)
    except Killed:
      code = -9
    finally:
      signal.signal(signal.SIGTERM, handler)
    self._codes.append((code, "error: said the worker"))

  def ended(self):
    codes, self._codes = self._codes, []
    return codes

  def stop(self):
    pass


@pytest.fixture
def here(monkeypatch):
  """Sweeps run in this process."""
  monkeypatch.setattr(manager.crew, "Crew", Here)
  monkeypatch.setattr(manager.crew, "places", lambda *_: [])
  monkeypatch.setattr(manager, "_SECONDS", 0.0)
  monkeypatch.setattr(worker, "Programs", lambda: PROGRAMS)


def sweep(config, folder, *flags):
  argv = ["sweep", f"--config={config}", f"--workdir={folder}", "--quiet", "--storage=journal"]
  return command_line.main([*argv, *flags])


def table(folder):
  with open(folder / "results.csv", newline="") as file:
    return list(csv.DictReader(file))


def times(folder):
  return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


# ---------------------------------------------------------------------------- a whole sweep


def test_a_sweep_trains_every_setting_and_a_finished_one_touches_nothing(here, tmp_path, capsys):
  config, folder = sweeping.write(tmp_path), tmp_path / "s"
  assert sweep(config, folder, "--config.seed=1") == 0
  rows = table(folder)
  assert [row["optimizer.learning_rate"] for row in rows] == ["0.1", "0.01"]
  assert {row["state"] for row in rows} == {"complete"} and {row["step"] for row in rows} == {"2"}
  for row in rows:
    run = workdir.read_config(folder / "trials" / row["trial"])
    assert run.optimizer.learning_rate == float(row["optimizer.learning_rate"])
    assert run.seed == 1 and "sweep" not in run
    result = workdir.read_json(folder / "trials" / row["trial"] / "result.json")
    assert result["loss"] == float(row["loss"])
  out = capsys.readouterr().out
  assert "2 trials: 2 complete" in out and "best: trial 0" in out
  assert f"train --config={config} --config.seed=1 --config.optimizer.learning_rate=0.1" in out
  flags = ["--config.seed=1", "--config.optimizer.learning_rate=0.1"]
  alone = loop.train(config_schema.load(config, flags), tmp_path / "run", False, PROGRAMS)
  assert float(rows[0]["loss"]) == alone["loss"]
  before = times(folder)
  assert sweep(config, folder, "--config.seed=1") == 0
  assert times(folder) == before and "2 trials: 2 complete" in capsys.readouterr().out
  assert command_line.main(["evaluate", f"--workdir={folder}"]) == 2
  assert "is a sweep; its runs lie in" in capsys.readouterr().err


def test_more_trials_are_added_to_those_that_are_there(here, tmp_path):
  config, folder = sweeping.write(tmp_path, '{"seed": integers(0, 2)}'), tmp_path / "s"
  assert sweep(config, folder, "--trials=1") == 0
  first = times(folder / "trials" / "0")
  assert sweep(config, folder, "--trials=2") == 0
  assert [row["seed"] for row in table(folder)] == ["0", "1"]
  assert times(folder / "trials" / "0") == first
  assert sweep(config, folder, "--trials=1") == 0
  assert len(table(folder)) == 2


def test_without_a_sweep_learning_rates_around_the_experiments_own_are_tried(tmp_path, capsys):
  space = manager._learning_rates(config_schema.base())
  assert space.ranges[0][1].points() == (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
  assert "no sweep()" in capsys.readouterr().err


def test_a_trial_that_fails_is_told_tried_once_more_and_keeps_nobody_else(here, tmp_path, capsys):
  config, folder = sweeping.write(tmp_path, '{"optimizer.accumulation": [1, 3]}'), tmp_path / "s"
  assert sweep(config, folder) == 1
  good, bad = table(folder)
  assert good["state"] == "complete" and bad["state"] == "failed"
  assert "accumulation" in bad["error"]
  errors = sweeps.read(folder).study.trials()[1].user_attrs["errors"]
  assert len(errors) == 2 and bad["error"] in errors
  assert "trial 1 failed: " in capsys.readouterr().out
  before = times(folder)
  assert sweep(config, folder) == 1 and times(folder) == before


def test_pruned_trials_stop_at_a_rung_and_stay_there(here, tmp_path):
  space = '{"optimizer.learning_rate": [0.1, 1e-6, 1e-7]}'
  config, folder = sweeping.write(tmp_path, space, steps=4), tmp_path / "s"
  assert sweep(config, folder, "--prune", "--config.eval.every=1") == 0
  rows = table(folder)
  assert [row["state"] for row in rows] == ["complete", "pruned", "pruned"]
  assert [row["step"] for row in rows] == ["4", "1", "1"]
  study = sweeps.read(folder).study
  assert [len(t.intermediate_values) for t in study.trials()] == [4, 1, 1]


# --------------------------------------------------------------------- stopped and killed


@pytest.fixture
def planned(here, tmp_path, monkeypatch):
  """A sweep of one trial of three steps that nobody has worked at."""
  space = '{"optimizer.learning_rate": [0.1]}'
  config, folder = sweeping.write(tmp_path, space, steps=3), tmp_path / "s"
  with monkeypatch.context() as patch:
    patch.setattr(manager._Manager, "work", lambda self: manager.STOPPED)
    assert sweep(config, folder) == 75
  return config, folder


def after(step, do):
  """`Meter.made` that does something once, after a step."""
  made, done = Meter.made, []

  def patched(self, at, *rest):
    made(self, at, *rest)
    if at == step and not done:
      done.append(do)
      do()

  return patched


def interrupt(folder, monkeypatch, step, do):
  """The exit code of a worker to which something happens after a step."""
  handler = signal.getsignal(signal.SIGTERM)
  with monkeypatch.context() as patch:
    patch.setattr(Meter, "made", after(step, do))
    try:
      return worker.main(folder)
    finally:
      signal.signal(signal.SIGTERM, handler)


def terminate():
  os.kill(os.getpid(), signal.SIGTERM)


def state(folder):
  return sweeps.read(folder).study.trials()[0].state.name


def test_a_stopped_worker_saves_its_trial_and_the_next_goes_on_with_it(planned, monkeypatch):
  config, folder = planned
  assert interrupt(folder, monkeypatch, 1, terminate) == 75
  assert state(folder) == "RUNNING"
  assert sweep(config, folder) == 0
  assert "resumed after step 1" in (folder / "trials" / "0" / "log").read_text()
  assert state(folder) == "COMPLETE"
  assert "deaths" not in sweeps.read(folder).study.trials()[0].user_attrs


def test_another_worker_goes_on_with_the_trial_of_a_dead_one(planned, monkeypatch):
  config, folder = planned

  def die():
    # As a process of another host leaves it.
    lock = {"host": "elsewhere", "pid": 1, "started": "1", "since": "then"}
    (folder / "trials" / "0" / "lock").write_text(json.dumps(lock))
    raise Killed

  monkeypatch.setattr(Meter, "made", after(3, die))
  assert sweep(config, folder) == 0
  assert "resumed after step 2" in (folder / "trials" / "0" / "log").read_text()
  assert sweeps.read(folder).study.trials()[0].user_attrs["deaths"] == [2]
  assert state(folder) == "COMPLETE"


def test_a_signal_between_the_last_step_and_the_record_loses_nothing(planned, monkeypatch):
  config, folder = planned
  assert interrupt(folder, monkeypatch, 3, terminate) == 75
  assert (folder / "trials" / "0" / "result.json").exists()
  assert state(folder) == "RUNNING"
  assert sweep(config, folder) == 0 and state(folder) == "COMPLETE"


def test_a_full_disk_ends_the_worker_and_fails_no_trial(planned, monkeypatch, capsys):
  _, folder = planned

  def full():
    raise OSError(28, "No space left on device")

  with pytest.raises(OSError, match="No space"):
    interrupt(folder, monkeypatch, 1, full)
  assert state(folder) == "RUNNING"
  assert "errors" not in sweeps.read(folder).study.trials()[0].user_attrs


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_kill_9_of_a_worker_loses_no_trial_and_each_has_its_own_processors(tmp_path, workers):
  space = f'{{"seed": integers(0, {workers})}}' if workers > 1 else '{"seed": [0]}'
  config, folder = sweeping.write(tmp_path, space, steps=80), tmp_path / "s"
  killed, used = None, set()
  with sweeping.start(config, folder, f"--workers={workers}") as process:
    while process.poll() is None:
      for path in folder.glob("claims/*"):
        holder = json.loads(path.read_text() or "{}")
        if "pid" not in holder:
          continue
        with contextlib.suppress(ProcessLookupError):
          used.add(frozenset(os.sched_getaffinity(holder["pid"])))
          if killed is None and sweeping.saved(folder, path.name):
            killed = path.name
            os.kill(holder["pid"], signal.SIGKILL)
      time.sleep(0.02)
    err = process.communicate()[1]
  assert process.returncode == 0, err
  assert {row["state"] for row in table(folder)} == {"complete"}
  assert killed and "resumed after step" in (folder / "trials" / killed / "log").read_text()
  assert sum(map(len, used)) == len(frozenset.union(*used))  # no processor is shared
  assert len(used) == workers


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_manager_that_ends_takes_its_workers_along_and_goes_on(tmp_path, number):
  config, folder = sweeping.write(tmp_path, steps=80), tmp_path / "s"
  with sweeping.start(config, folder, "--workers=1") as process:
    while not sweeping.saved(folder, 0):
      assert process.poll() is None
      time.sleep(0.05)
    worker_pid = json.loads((folder / "claims" / "0").read_text())["pid"]
    process.send_signal(number)
    process.communicate()
  assert process.returncode == (75 if number == signal.SIGTERM else -9)
  for _ in range(600):
    if not os.path.exists(f"/proc/{worker_pid}"):
      break
    time.sleep(0.1)
  assert not (folder / "trials" / "0" / "lock").exists()  # it saved, and gave its trial back
  with sweeping.start(config, folder, "--workers=1") as process:
    out, err = process.communicate()
  assert process.returncode == 0, err
  assert "2 trials: 2 complete" in out
  assert "resumed after step" in (folder / "trials" / "0" / "log").read_text()


# -------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
  ("space", "flags", "message"),
  [
    ('{"optimizer.learning_rat": [0.1]}', [], "Did you mean 'optimizer.learning_rate'"),
    ('{"steps": [1, 1.5]}', [], "type int for steps, found 1.5"),
    ("{}", [], "space of sweep() is empty"),
    ("[1, 2]", [], "Expected a space"),
    ('{"seed": [1], "optimizer.learning_rate": uniform(1, 2)}', [], "--sampler=random"),
    ('product({"seed": [1]}, {"seed": [2]})', [], "two parts set seed"),
    (sweeping.RATES, ["--metric=accurcy"], "Unknown --metric 'accurcy'. Did you mean 'accuracy'"),
    (sweeping.RATES, ["--trials=0"], "--trials must be at least 1"),
    (sweeping.RATES, ["--workers=-1"], "--workers must be 0"),
    (sweeping.RATES, ["--cluster-option=time=5"], "belongs to --cluster"),
    (sweeping.RATES, ["--storage=csv"], "expected sqlite, journal"),
    (sweeping.RATES, ["--config.data.path=nosuch.txt"], "nosuch.txt"),
    (sweeping.RATES, ["--config.stepz=3"], "Did you mean 'steps'"),
  ],
)
def test_mistakes_are_refused_and_leave_nothing(here, tmp_path, capsys, space, flags, message):
  config, folder = sweeping.write(tmp_path, space), tmp_path / "s"
  assert sweep(config, folder, *flags) == 2
  assert message in capsys.readouterr().err
  assert not (folder / "config.json").exists()  # the mended one may have it


def test_another_sweep_is_not_written_into_the_folder(planned, tmp_path, capsys):
  config, folder = planned
  files = lambda: {p: at for p, at in times(folder).items() if p.is_file()}
  before = files()
  for flags, message in (
    (["--sampler=random"], 'sweep.sampler: "grid" there, "random" here'),
    (["--config.seed=3"], "seed: 0 there, 3 here"),
    (["--metric=accuracy"], 'sweep.metric: "loss" there'),
  ):
    assert sweep(config, folder, *flags) == 2
    assert message in capsys.readouterr().err
  argv = ["sweep", f"--config={config}", f"--workdir={folder}", "--storage=sqlite"]
  assert command_line.main(argv) == 2 and "study in journal:///" in capsys.readouterr().err
  other = sweeping.write(tmp_path, '{"seed": [1]}', steps=3)
  assert sweep(other, folder) == 2 and "sweep.space" in capsys.readouterr().err
  assert command_line.main(["train", f"--config={other}", f"--workdir={folder}"]) == 2
  assert files() == before


def test_workers_that_cannot_work_end_the_sweep(here, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(worker, "main", lambda folder: 1)
  assert sweep(sweeping.write(tmp_path), tmp_path / "s") == 2
  assert "A worker cannot work: said the worker" in capsys.readouterr().err


def test_a_cluster_that_is_not_there_is_refused(here, tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path))
  assert sweep(sweeping.write(tmp_path), tmp_path / "s", "--cluster=slurm") == 2
  assert "no sbatch" in capsys.readouterr().err
