"""Comparisons over tasks: what is planned, how sizes are matched, what is kept and made anew."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_jax import config as config_schema
from llm_jax.analysis import counts, entrants, planning
from llm_jax.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
RECALL = "associative_recall"
EXPERIMENT = str(config_schema.EXPERIMENTS / "compare_capabilities.py")


def config_of(**changes):
  config = config_schema.load(f"{EXPERIMENT}:tiny", [])
  with config.unlocked():
    config.compare.update(changes)
  return config


def planned(**changes):
  return planning.plans(config_of(**changes), "python launch.py")


def test_each_task_is_a_study_with_its_own_data_and_the_comparisons_settings():
  plans = planned(architectures=("lstm",))
  assert list(plans) == ["associative_recall", "parity"]
  recall, parity = (plans[name]["config"] for name in plans)
  assert recall["objective_options"]["task"]["name"] == "associative_recall"
  assert parity["objective_options"]["task"]["name"] == "parity"
  assert (recall["seq_len"], parity["seq_len"]) == (16, 5)
  for plan in plans.values():
    [entry] = plan["architectures"]
    assert entry["config"]["objective_options"] == plan["config"]["objective_options"]
    assert entry["config"]["log"] == config_of().log.to_dict()
    assert (plan["metric"], plan["higher_is_better"]) == ("accuracy", True)
  assert plans["parity"]["kinds"] == ["length_4", "length_8"]


def test_a_variant_changes_an_experiment_last():
  changes = {"layers": {"attention": {"positions": "none"}}, "tie_embeddings": True}
  blind = {"experiment": "llama", "title": "no positions", "changes": {"model": changes}}
  config = config_of(
    architectures=("blind", "llama"),
    tasks=("synthetic:parity",),
    model={"tie_embeddings": False},
    variants={"blind": blind},
    parameters=50_000,
  )
  blind, plain = planning.plans(config, "")["synthetic_parity"]["architectures"]
  assert (blind["title"], plain["title"]) == ("no positions", "Llama")
  assert blind["config"]["model"]["layers"]["attention"]["positions"] == "none"
  assert plain["config"]["model"]["layers"]["attention"]["positions"] == "rope"
  assert blind["config"]["model"]["tie_embeddings"]
  assert not plain["config"]["model"]["tie_embeddings"]


@pytest.mark.parametrize(
  ("match", "target", "size"),
  [
    ("parameters", 12_000, lambda model, entry: counts.parameters(model)),
    (
      "flops_per_token",
      1e5,
      lambda model, entry: counts.training_flops_per_token(model, entry["config"]["seq_len"]),
    ),
    (
      "state_bytes",
      2000,
      lambda model, entry: counts.state_bytes(model, entry["config"]["seq_len"]),
    ),
  ],
)
def test_widths_are_solved_for_what_is_matched(match, target, size):
  changes = {"match": match, match: target, "tasks": (RECALL,), "tolerance": 0.15}
  entries = planned(architectures=("gpt2", "lstm"), **changes)[RECALL]["architectures"]
  for entry in entries:
    found = size(entry["config"]["model"], entry)
    assert found == pytest.approx(target, rel=0.15)
  assert entries[0]["d_model"] != entries[1]["d_model"]


def test_widths_stay_where_nothing_is_matched():
  [entry] = planned(architectures=("lstm",), match="", tasks=("parity",))["parity"]["architectures"]
  assert entry["d_model"] == config_schema.load(f"{ROOT}/experiments/lstm.py", []).model.d_model


def test_learned_positions_reach_the_longest_held_out_example():
  [entry] = planned(architectures=("gpt2",), tasks=("parity",))["parity"]["architectures"]
  assert entry["config"]["model"]["max_length"] >= 9


def test_every_architecture_has_as_many_trials():
  plans = planned(weight_decays=(0.0, 0.1), learning_rates=(1e-3, 4e-3))
  assert planning.grid(plans[RECALL]) == [
    (1e-3, 0.0),
    (1e-3, 0.1),
    (4e-3, 0.0),
    (4e-3, 0.1),
  ]


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"match": "flop"}, "flops_per_token"),
    ({"match": "state_bytes"}, "compare.state_bytes must be above 0"),
    ({"learning_rates": (1e-3,)}, "default setting"),
    ({"architectures": ("mamba3",)}, "mamba"),
    ({"tasks": ("synthetic:paritty",)}, "parity"),
    ({"variants": {RECALL: {"experimnt": "llama"}}}, "experiment"),
    (
      {"variants": {RECALL: {"experiment": "synthetic", "changes": {"stepps": 1}}}},
      "stepps",
    ),
  ],
)
def test_mistakes_are_refused_before_anything_runs(change, said):
  config = config_of(**change)
  with pytest.raises(UserError, match=said):
    planning.check(config)
    planning.plans(config, "")


def test_a_variant_that_is_none_is_named_by_its_experiment():
  assert entrants.find("synthetic:parity", config_of().compare.variants).title == "parity"
  assert entrants.find("rwkv4", config_of().compare.variants).title == "RWKV-4"


def launch(folder, *overrides, wait=True):
  one_device = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
  command = [sys.executable, str(ROOT / "launch.py"), "compare", f"--config={EXPERIMENT}:tiny"]
  command += [f"--workdir={folder}", *(f"--config.compare.{text}" for text in overrides)]
  environment = os.environ | {"XLA_FLAGS": one_device, "JAX_PLATFORMS": "cpu"}
  if wait:
    return subprocess.run(command, env=environment, capture_output=True, text=True)
  quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
  return subprocess.Popen(command, env=environment, **quiet)


def runs_in(folder):
  return {path.parent for path in (folder / "cache").glob("*/result.json")}


@pytest.mark.slow
def test_a_comparison_that_grows_makes_only_what_is_new(tmp_path):
  small = ("architectures=('lstm',)", "tasks=('parity',)", "learning_rates=(4e-3,)")
  done = launch(tmp_path / "c", *small, "seeds=1")
  assert done.returncode == 0, done.stderr
  [first] = runs_in(tmp_path / "c")
  made = first.stat().st_mtime_ns
  done = launch(tmp_path / "c", *small, "seeds=2")
  assert done.returncode == 0, done.stderr
  assert len(runs_in(tmp_path / "c")) == 2
  assert first.stat().st_mtime_ns == made
  rows = list(csv.DictReader((tmp_path / "c" / "results.csv").read_text().splitlines()))
  whole, *kinds = rows
  assert (whole["architecture"], whole["task"], whole["kind"]) == ("lstm", "parity", "")
  assert [row["kind"] for row in kinds] == ["length_4", "length_8"]
  scores = [float(row["seed_1"]) for row in rows]
  assert scores[0] == pytest.approx(sum(scores[1:]) / 2)


@pytest.mark.slow
def test_a_comparison_killed_anywhere_ends_as_one_left_alone(tmp_path):
  small = ("architectures=('lstm',)", "tasks=('parity',)")
  assert launch(tmp_path / "alone", *small).returncode == 0
  killed = tmp_path / "killed"
  for runs in (0, 1, 3):  # of two trials and two seeds
    process = launch(killed, *small, wait=False)
    while len(runs_in(killed)) < runs or not (killed / "cache").exists():
      assert process.poll() is None
      time.sleep(0.05)
    process.kill()
    process.wait()
  done = launch(killed, *small)
  assert done.returncode == 0, done.stderr
  alone, again = ((tmp_path / name / "results.csv").read_text() for name in ("alone", "killed"))
  assert alone == again
