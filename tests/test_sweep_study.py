"""The record of a sweep without any training: its trials, who holds them, retries and refusals."""

import json
import os
import socket
import subprocess
import sys

import optuna
import pytest

from llm_jax.errors import UserError
from llm_jax.sweeps import claims as claiming
from llm_jax.sweeps import crew
from llm_jax.sweeps.claims import Claims
from llm_jax.sweeps.space import conditional, log_uniform, space_of, uniform
from llm_jax.sweeps.study import Plan, Study, storage_url, values_of
from llm_jax.training import loop

GRID = space_of({"rate": log_uniform(1e-3, 1e-1, points=3), "decay": [0.0, 0.1]})
FREE = conditional(
  "name", {"adamw": {"rate": log_uniform(1e-3, 1e-1), "b": [(1, 2), None]}, "sgd": {}}
)
RUNNING = optuna.trial.TrialState.RUNNING


def plan(space=GRID, sampler="grid", metric="loss", first_rung=0, seed=0):
  return Plan(space, sampler, metric, first_rung, seed)


def study(folder, plan, storage="journal", points=None, identity="me"):
  made = Study(folder, storage_url(storage), "name", identity, plan)
  made.fill(plan.points(None) if points is None else points)
  return made


@pytest.fixture
def opened(tmp_path):
  return study(tmp_path, plan())


# ------------------------------------------------------------------------------ which trials


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_all_trials_stand_in_the_study_from_the_beginning(tmp_path, storage):
  opened = study(tmp_path, plan(), storage)
  trials = opened.trials()
  assert [t.number for t in trials] == list(range(6)) == [t.number for t in opened.unfinished()]
  assert [values_of(t) for t in trials] == [
    {"rate": rate, "decay": decay} for rate in (1e-3, 1e-2, 1e-1) for decay in (0.0, 0.1)
  ]
  assert trials[3].params == values_of(trials[3])  # as optuna's own tools read them
  opened.fill(opened.plan.points(None))
  assert len(opened.trials()) == 6  # a manager that was killed adds what is missing, and no more
  opened.finish(opened.begin(2, None), {"loss": 1.0})
  again = study(tmp_path, plan(), storage)  # another process
  assert [t.number for t in again.unfinished()] == [0, 1, 3, 4, 5]


def test_random_trials_depend_on_the_seed_alone_and_are_all_different():
  one, same, other = (plan(FREE, "random", seed=s).points(12) for s in (3, 3, 4))
  assert one == same and one != other
  assert plan(FREE, "random", seed=3).points(5) == one[:5]  # more of them are added behind
  assert len({repr(point.values) for point in one}) == 12
  few = plan(space_of({"a": [1, 2, 3]}), "random").points(10)
  assert sorted(point.values["a"] for point in few) == [1, 2, 3]


def test_random_values_come_back_from_the_study_as_they_went_in(tmp_path):
  drawn = plan(FREE, "random")
  points = drawn.points(6)
  made = study(tmp_path, drawn, points=points)
  assert [values_of(t) for t in made.trials()] == [point.values for point in points]
  assert any(values.get("b") == (1, 2) for values in map(values_of, made.trials()))


def test_tpe_proposes_as_a_trial_begins_and_learns_from_the_others(tmp_path):
  drawn = plan(space_of({"x": uniform(0, 1)}), "tpe")
  made = study(tmp_path, drawn, points=[None] * 30)
  assert values_of(made.trials()[0]) == {}
  for number in range(30):
    trial = made.begin(number, None)
    x = values_of(trial)["x"]
    assert values_of(made.begin(number, None)) == {"x": x}  # begun again, it keeps its values
    made.finish(trial, {"loss": (x - 0.3) ** 2})
  found = [values_of(t)["x"] for t in made.trials()]
  far = lambda part: sum(abs(x - 0.3) for x in part) / len(part)
  assert far(found[20:]) < 0.7 * far(found[:10])


def test_the_first_proposals_of_tpe_depend_on_the_number_not_on_who_asks(tmp_path):
  drawn = plan(space_of({"x": uniform(0, 1)}), "tpe")
  found = []
  for order in ((0, 1, 2), (2, 0, 1)):
    folder = tmp_path / str(len(found))
    folder.mkdir()
    made = study(folder, drawn, points=[None] * 3)
    for number in order:
      made.begin(number, None)
    found.append([values_of(t)["x"] for t in made.trials()])
  assert found[0] == found[1] and len(set(found[0])) == 3


# --------------------------------------------------------------------------- how trials end


def test_a_failure_is_noted_and_tried_once_more(opened):
  for error in (loop.Failed("not finite"), ValueError("twice")):
    assert 0 in [t.number for t in opened.unfinished()]
    opened.fail(opened.begin(0, None), error)
  assert opened.trials()[0].state.name == "FAIL"
  assert opened.trials()[0].user_attrs["errors"] == ["not finite", "ValueError: twice"]
  assert opened.begin(0, None) is None


def test_a_trial_that_kills_three_processes_at_one_step_is_given_up(opened):
  for died_at in (None, 0, 0, 5, 5):  # it got further once
    assert opened.begin(1, died_at) is not None
  assert opened.begin(1, 5) is None
  assert "died 3 times at step 5" in opened.trials()[1].user_attrs["errors"][0]
  assert opened.trials()[1].state.name == "FAIL"


def test_a_result_that_is_no_number_is_a_failure(opened):
  opened.finish(opened.begin(0, None), {"loss": float("nan")})
  opened.finish(opened.begin(1, None), {"loss": 2.0})
  assert [t.state.name for t in opened.trials()[:2]] == ["FAIL", "COMPLETE"]
  assert opened.trials()[1].value == 2.0


def test_early_stopping_by_the_same_metric_gives_the_best_value(tmp_path):
  made = study(tmp_path, plan(metric="accuracy"))
  result = {"accuracy": 0.5, "early_stopping": {"metric": "accuracy", "best": 0.7}}
  made.finish(made.begin(0, None), result)
  result["early_stopping"]["metric"] = "loss"
  made.finish(made.begin(1, None), result)
  assert [t.value for t in made.trials()[:2]] == [0.7, 0.5]


def test_successive_halving_keeps_the_better_half_at_each_rung(tmp_path):
  made = study(tmp_path, plan(first_rung=10))
  trials = [made.begin(number, None) for number in range(4)]
  at = lambda step, losses: [made.report(trials[i], step, x) for i, x in enumerate(losses)]
  assert at(5, [9, 1, 9, 9]) == [False] * 4  # before the first rung
  assert at(10, [4, 3, 2, 5]) == [False, False, False, True]
  assert at(20, [4, 3, 5, 0])[:3] == [False, False, True]
  assert made.report(trials[0], 10, 4) is False  # noted already: a resumed run says it again


# -------------------------------------------------------------------------------- refusals


def test_a_storage_of_another_sweep_is_refused(tmp_path):
  url = f"sqlite:///{tmp_path / 'shared.db'}"
  study(tmp_path, plan(), url)
  study(tmp_path, plan(), url)  # its own
  with pytest.raises(UserError, match=r"study 'name' of another sweep.*--storage"):
    study(tmp_path, plan(), url, identity="you")


@pytest.mark.parametrize(
  ("storage", "message"),
  [("postgres", "expected sqlite, journal"), ("nosuch://host/db", "cannot be opened")],
)
def test_a_storage_that_is_none_is_refused(tmp_path, storage, message):
  with pytest.raises(UserError, match=message):
    study(tmp_path, plan(), storage)


# ---------------------------------------------------------------------------------- claims


HOLDER = """
import sys, time
from pathlib import Path
from llm_jax.sweeps.claims import Claims
with Claims(Path(sys.argv[1])).take(3):
  print("held", flush=True)
  time.sleep(60)
"""


def test_a_live_process_keeps_a_trial_and_a_killed_one_leaves_word(tmp_path):
  mine, command = Claims(tmp_path), [sys.executable, "-c", HOLDER, tmp_path]
  with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
    assert holder.stdout.readline() == b"held\n"
    others = mine.free(3), mine.free(4)
    with mine.take(3) as left:
      pass
    holder.kill()
  assert others == (False, True) and left is None
  assert mine.free(3)
  with mine.take(3) as left:
    assert left == {"host": socket.gethostname(), "pid": holder.pid}
    assert not Claims(tmp_path).free(3)
  with mine.take(3) as left:
    assert left == {}  # the last one ended well
  with pytest.raises(loop.Stopped), mine.take(3):
    raise loop.Stopped("by a signal")
  with mine.take(3) as left:
    assert left == {}


def test_a_process_of_another_host_is_given_up_only_when_its_heart_stands_still(
  tmp_path, monkeypatch
):
  mine, path = Claims(tmp_path), tmp_path / "claims" / "0"
  path.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
  now = 1000.0
  monkeypatch.setattr(claiming.time, "monotonic", lambda: now)
  assert not mine.free(0)
  now += claiming._SILENCE - 1
  os.utime(path)  # it beats
  assert not mine.free(0)
  now += claiming._SILENCE - 1
  assert not mine.free(0)
  now += 2
  assert mine.free(0)
  with Claims(tmp_path).take(0) as left:  # another need not watch as long again
    assert left["host"] == "elsewhere"


def test_the_holder_of_a_claim_gives_signs_of_life(tmp_path, monkeypatch):
  monkeypatch.setattr(claiming, "_BEAT", 0.01)
  with Claims(tmp_path).take(0):
    path = tmp_path / "claims" / "0"
    os.utime(path, (0, 0))
    for _ in range(500):
      if path.stat().st_mtime > 0:
        return
      claiming.time.sleep(0.01)
  pytest.fail("no sign of life")


# ---------------------------------------------------------------------------------- places


@pytest.mark.parametrize(
  ("found", "asked", "given"),
  [
    (("cpu", 1), 0, ["", "", "", ""]),
    (("gpu", 2), 0, ["0", "1"]),
    (("gpu", 8), 4, ["0,1", "2,3", "4,5", "6,7"]),
    (("gpu", 1), 2, ["0", "0"]),
    (("gpu", 8), 1, [""]),
    (("tpu", 4), 0, [""]),
  ],
)
def test_workers_share_processors_and_gpus(monkeypatch, found, asked, given):
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  monkeypatch.setattr(crew.workers, "devices", lambda: found)
  monkeypatch.setattr(crew.workers, "cores", lambda: [0, 1, 2, 3])
  places = crew.places(asked, trials=5)
  assert [place.variables.get("CUDA_VISIBLE_DEVICES", "") for place in places] == given
  cores = [core for place in places for core in place.processors.split(",")]
  assert sorted(cores) == ["0", "1", "2", "3"]
  parts = [place.variables.get("XLA_PYTHON_CLIENT_MEM_FRACTION") for place in places]
  assert parts == (["0.450", "0.450"] if found == ("gpu", 1) else [None] * len(places))


def test_gpus_that_the_user_chose_are_shared_among_the_workers(monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
  monkeypatch.setattr(crew.workers, "devices", lambda: ("gpu", 2))
  monkeypatch.setattr(crew.workers, "cores", lambda: [0, 1])
  assert [p.variables["CUDA_VISIBLE_DEVICES"] for p in crew.places(0, trials=9)] == ["3", "5"]


@pytest.mark.parametrize(
  ("found", "message"), [(("cpu", 1), "only 2 processors"), (("tpu", 4), "all of a tpu")]
)
def test_more_workers_than_places_are_refused(monkeypatch, found, message):
  monkeypatch.setattr(crew.workers, "devices", lambda: found)
  monkeypatch.setattr(crew.workers, "cores", lambda: [0, 1])
  with pytest.raises(UserError, match=message):
    crew.places(3, trials=9)
