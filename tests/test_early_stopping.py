"""Early stopping: when a run ends, what it keeps, and that a resumed one ends there too."""

import json
import shutil

import numpy as np
import pytest

from llm_jax import config as config_schema
from llm_jax.errors import UserError
from llm_jax.models.spec import model_config
from llm_jax.training import loop, metrics
from llm_jax.training.checkpoints import load_params
from llm_jax.training.early_stopping import EarlyStopping
from llm_jax.training.meter import Meter


@pytest.fixture
def config(tmp_path):
  path = tmp_path / "text.jsonl"
  path.write_text("".join(json.dumps({"text": f"{n} " * 20}) + "\n" for n in range(30)))
  config = config_schema.base()
  config.model = model_config(d_model=32, repeats=1, pattern=("mlp",))
  config.steps, config.batch_size, config.seq_len = 9, 8, 16
  config.data.path, config.tokenizer.name = str(path), "byte"
  config.log.every, config.eval.every, config.eval.batches = 1, 1, 1
  config.checkpoint.update(every=3, keep=1)
  config.early_stopping.update(metric="accuracy", patience=2)
  return config


ACCURACY = {1: 0.1, 2: 0.5, 3: float("nan"), 4: 0.4}  # nothing better after step 2


@pytest.fixture
def scripted(monkeypatch):
  """Evaluations whose accuracy is that of the table."""
  validate = Meter.validate

  def scripted(self, step, state):
    return validate(self, step, state) | {"accuracy": ACCURACY[step]}

  monkeypatch.setattr(Meter, "validate", scripted)


def train(config, folder):
  return loop.train(config, folder, progress=False)


def test_a_run_stops_where_it_should_keeps_its_best_and_resumes_to_the_same_end(
  config, scripted, tmp_path, monkeypatch
):
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  result = train(config, whole)
  wanted = {"metric": "accuracy", "best": 0.5, "best_step": 2, "stopped": True}
  assert result["early_stopping"] == wanted and result["step"] == 4
  assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == ["2", "4"]
  assert "after step 4 of 9: accuracy has not got better than 0.5 of step 2 in 2 evaluations" in (
    (whole / "log").read_text()
  )
  best, last = load_params(whole, "best"), load_params(whole)
  assert np.any(best["embed"]["tokens"] != last["embed"]["tokens"])

  made = Meter.made

  def die(self, step, *rest):
    if step == 4:
      raise KeyboardInterrupt
    made(self, step, *rest)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(Meter, "made", die)
    train(config, killed)
  again = train(config, killed)
  assert "resumed after step 3" in (killed / "log").read_text()
  assert (again["early_stopping"], again["loss"]) == (wanted, result["loss"])
  np.testing.assert_array_equal(load_params(killed)["embed"]["tokens"], last["embed"]["tokens"])
  # Killed between the last save and its result: not a step more.
  (shutil.copytree(whole, tmp_path / "again") / "result.json").unlink()
  assert train(config, tmp_path / "again") == result
  rows = metrics.read(tmp_path / "again" / "metrics.jsonl")
  assert max(row["step"] for row in rows) == 4


@pytest.mark.parametrize(
  ("metric", "values", "best"),
  [("loss", [3, 2, 1, 2], 3), ("accuracy", [3, 2, 1, 4], 4), ("bits_per_byte", [3, 2, 2, 2], 2)],
)
def test_the_direction_is_that_of_the_metric(config, metric, values, best):
  config.early_stopping.update(metric=metric, patience=3)
  stopping = EarlyStopping(config)
  for step, value in enumerate(values, start=1):
    stopping.judge(step, {metric: float(value)})
  assert stopping.result()["early_stopping"]["best_step"] == best
  assert not stopping.finished
  for step in (5, 6, 7):
    stopping.judge(step, {metric: values[best - 1]})
  assert stopping.finished


def test_a_run_that_keeps_getting_better_makes_all_its_steps(config, tmp_path):
  config.steps = 2
  config.early_stopping.metric = "loss"
  result = train(config, tmp_path / "run")
  found = result["early_stopping"]
  assert (result["step"], found["stopped"], found["best"]) == (2, False, result["loss"])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"metric": "accuarcy"}, r"Did you mean 'accuracy'.*accuracy, bits_per_byte, loss"),
    ({"patience": 0}, "patience must be 1 or more"),
    ({"every": 0}, r"eval\.every is 0"),
  ],
)
def test_what_could_never_stop_a_run_is_refused_before_it_begins(config, tmp_path, change, message):
  config.eval.every = change.pop("every", 1)
  config.early_stopping.update(change)
  with pytest.raises(UserError, match=message):
    train(config, tmp_path / "run")
  assert not (tmp_path / "run" / "config.json").exists()
