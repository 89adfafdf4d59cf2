"""Runs of synthetic tasks, from the command line: with another experiment's model, and scored."""

import json
import math
import pathlib

import numpy as np
import pytest

from llm_jax import command_line
from llm_jax import config as config_schema
from llm_jax.data import task as tasks
from llm_jax.errors import UserError
from llm_jax.evaluation import synthetic

EXPERIMENTS = config_schema.EXPERIMENTS
SYNTHETIC, LSTM = f"{EXPERIMENTS}/synthetic.py", f"{EXPERIMENTS}/lstm.py"
COMPARISON = f"{EXPERIMENTS}/compare_quick.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A tiny run of facts about six people, and the last row of its validation."""
  small = {"people": 6, "names": "(3,4)", "templates": 1, "attributes": "(('born',2,3),('city',5))"}
  argv = ["train", f"--config={SYNTHETIC}:knowledge", f"--model={LSTM}:tiny", "--quiet"]
  argv += [f"--config.objective_options.task.{name}={value}" for name, value in small.items()]
  argv += ["--config.objective_options.held_out=5", "--config.model.layers.lstm.hidden_size=8"]
  argv += ["--config.steps=2", "--config.batch_size=8", "--config.seq_len=7"]
  folder = tmp_path_factory.mktemp("synthetic")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    assert command_line.main(argv) == 0
  run = folder / "runs" / "synthetic_knowledge_lstm_tiny"
  rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
  return run, next(row for row in reversed(rows) if row["split"] == "validation")


def evaluated(capsys, run, *flags):
  assert command_line.main(["evaluate", f"--workdir={run}", *flags]) == 0
  return json.loads(capsys.readouterr().out)


def test_a_run_may_train_another_experiments_model(trained):
  model = json.loads((trained[0] / "config.json").read_text())["model"]
  assert model["pattern"] == ["lstm"] and model["d_model"] == 32
  assert model["layers"]["lstm"]["hidden_size"] == 8  # overrides are of the model that is taken


def test_evaluate_tells_what_validation_told_and_the_bits_that_follow(trained, capsys):
  run, row = trained
  found = evaluated(capsys, run)
  assert found["objective"] == "synthetic" and found["examples"] == 15
  for name in ("accuracy", "exact", "loss"):
    assert found[name] == pytest.approx(row[name], rel=1e-5)
  kinds = ("name", "born", "city")
  assert found["metric"] == "loss" and tuple(found["by_kind"]) == kinds
  for kind in kinds:
    assert found["by_kind"][kind] == pytest.approx(row[f"loss/{kind}"], rel=1e-5)
  nats = sum(n * found["by_kind"][kind] for n, kind in zip((2, 2, 1), kinds, strict=True))
  bits = 6 * (math.log2(3 * 4) + math.log2(2 * 3 * 5) - nats / math.log(2))
  assert found["bits"] == pytest.approx(bits)
  assert found["bits_per_parameter"] == pytest.approx(bits / found["parameters"])
  assert 0 < found["baseline"]["accuracy"] < 1 and set(found["baseline"]["by_kind"]) == set(kinds)


def test_a_limit_takes_the_first_examples_of_all_kinds_in_turn(trained, capsys):
  found = evaluated(capsys, trained[0], "--limit=2")
  assert found["examples"] == 2
  assert tuple(found["by_kind"]) == ("name", "born") and "bits" not in found


def test_evaluate_refuses_other_data(trained, capsys):
  assert command_line.main(["evaluate", f"--workdir={trained[0]}", "--data=x.tsv"]) == 2
  assert "makes its own examples" in capsys.readouterr().err


def test_the_baseline_is_each_kinds_most_frequent_answer():
  made = tasks.make(tasks.options("parity", longest=2, held_out_lengths=(1, 2)))
  even, odd, kind = made.symbols.index("even"), made.symbols.index("odd"), np.array([0, 0, 1, 1])
  weights = np.array([[1, 0], [1, 0], [1, 1], [0, 1]], np.float32)
  rows = {"kind": kind, "weights": weights, "targets": np.full((4, 2), odd)}
  rows["targets"][3] = even
  targets = np.array([[odd, even], [odd, even], [even, even], [odd, even]])
  others = {"kind": kind, "weights": weights, "targets": targets}
  found = synthetic.guessing(rows, others, made)
  # Kind 0 saw odd twice, and is right twice; kind 1 saw even three times: wrong twice, right once.
  assert found["by_kind"] == {"length_1": 1.0, "length_2": pytest.approx(1 / 3)}
  assert found["accuracy"] == pytest.approx(3 / 5) and found["exact"] == pytest.approx(3 / 4)
  symbols = len(made.symbols)
  nats = 2 * math.log((2 + symbols) / 3) + 2 * math.log(3 + symbols) + math.log((3 + symbols) / 4)
  assert found["loss"] == pytest.approx(nats / 5)


def test_the_baseline_knows_what_is_frequent_at_a_place():
  made = tasks.make(tasks.options("parity", longest=2, held_out_lengths=(2,)))
  even, odd = made.symbols.index("even"), made.symbols.index("odd")
  rows = {"kind": np.zeros(4, int), "weights": np.ones((4, 2), np.float32)}
  rows["targets"] = np.array([[odd, even]] * 3 + [[even, even]])
  assert synthetic.guessing(rows, rows, made)["accuracy"] == 7 / 8
  # A place at which nothing was asked takes the kind's answer.
  unseen = rows | {"weights": np.array([[0.0, 1.0]] * 4, np.float32)}
  assert synthetic.guessing(rows, unseen, made)["accuracy"] == 5 / 8


def test_of_another_experiments_model_all_is_taken_but_the_jobs_own():
  loaded = config_schema.load(f"{SYNTHETIC}:compression", ["--config.model.d_model=24"], LSTM)
  own, other = (config_schema.load(path, []) for path in (f"{SYNTHETIC}:compression", LSTM))
  assert loaded.model.heads == own.model.heads == ("reconstruction",) != other.model.heads
  assert loaded.model.d_model == 24 and loaded.optimizer == own.optimizer
  for name in ("pattern", "layers", "repeats", "norm", "tie_embeddings"):
    assert loaded.model[name] == other.model[name]


@pytest.mark.parametrize(
  ("config", "model", "said"),
  [
    (SYNTHETIC, COMPARISON, "compare_quick.py has no model of its own"),
    (COMPARISON, LSTM, "compare_quick.py has no model of its own"),
    (SYNTHETIC, f"{EXPERIMENTS}/lstn.py", "lstm.py'?"),
    (SYNTHETIC, "", "config file"),
  ],
  ids=lambda value: pathlib.Path(value).name,
)
def test_a_model_that_cannot_be_taken_is_refused(config, model, said):
  with pytest.raises(UserError, match=said.replace("?", r"\?")):
    config_schema.load(config, [], model)
