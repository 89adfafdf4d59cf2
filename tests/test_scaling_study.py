"""A scaling study: its grid, its runs, what a part of it says, and its report."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from test_report import Page

from llm_jax import config as config_schema
from llm_jax.analysis import scaling_report, scaling_results, scaling_study, scaling_worker
from llm_jax.analysis.scaling import Law
from llm_jax.errors import UserError
from llm_jax.training import loop

ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY = f"{ROOT}/experiments/compare_scaling.py:tiny"
HOSTILE = "<b>ten non-finite losses</b>"
# Name: title, law, FLOPs of a token over N.
MODELS = {
  "gpt2": ("GPT-2", Law(1.2, 60.0, 90.0, 0.4, 0.35), 6.4),
  "lstm": ("LSTM", Law(1.2, 16.0, 500.0, 0.3, 0.5), 5.8),
  "rwkv4": ("RWKV-4", Law(1.2, 197.0, 322.0, 0.5, 0.45), 7.0),
}
SIZES, TOKENS = (60_000, 120_000, 250_000, 500_000), (125_000, 250_000, 500_000, 1_000_000)


def write_study(folder, models=MODELS, sizes=SIZES, lengths=TOKENS, lost=(), noise=0.003):
  """A study's folder made of known laws, and its plan; `lost`: (model, steps) without result."""
  config = config_schema.load(f"{ROOT}/experiments/compare_scaling.py", []).to_dict()
  generator, planned = np.random.default_rng(0), []
  for name, (title, law, cost) in models.items():
    for size in sizes:
      model = f"{name}_{size}"
      runs = []
      for tokens in lengths:
        run = {"steps": tokens // 2048, "tokens": tokens, "seed": 0}
        run["folder"] = f"runs/{model}/{run['steps']}_steps_seed_0"
        runs.append(run)
        bits = float(law.loss(size, tokens) * np.exp(noise * generator.normal()))
        if (model, run["steps"]) not in lost:
          write(folder / run["folder"] / "result.json", {"bits_per_byte": bits})
      grid = {"grid": {"0.002": 3.0, "0.004": 2.9, "0.008": None}, "learning_rate": 4e-3}
      write(folder / "tuning" / model / "chosen.json", grid)
      entry = {
        "name": model,
        "architecture": name,
        "title": title,
        "parameters": size,
        "runs": runs,
      }
      entry |= {"d_model": 32, "pattern": f"{name} x 4", "train_flops_per_token": cost * size}
      planned.append(entry)
  return {
    "command": "python launch.py compare --config=experiments/compare_scaling.py",
    "environment": {"cpu": "Xeon", "cpu_count": 2, "packages": {"jax": "0.10.2"}},
    "config": config,
    "corpus": {"name": "Python's documentation", "train_bytes": 700_000, "train_documents": 9},
    "tokenizer": {"name": "byte", "vocab_size": 257},
    "tokens_per_byte": 1.0,
    "models": planned,
  }


def write(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))


def table(folder):
  with open(folder / "results.csv") as file:
    return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp("study")
  return scaling_results.gather(folder, write_study(folder))


@pytest.fixture(scope="module")
def html(whole):
  return scaling_report.render(whole)


def test_the_laws_and_crossovers_of_a_study_are_those_it_was_made_with(whole):
  assert [a.name for a in whole.fitted] == list(MODELS)
  for a in whole.fitted:
    law = MODELS[a.name][1]
    for name in ("alpha", "beta"):
      low, high = a.fit.interval(name)
      assert low < getattr(law, name) < high
    assert a.fit.cost(1e5) == pytest.approx(MODELS[a.name][2] * 1e5)  # counted, not 6 N
    assert a.fit.freedom == 11
  [pair] = [c for c in whole.crossovers if c.names == ("gpt2", "rwkv4") or c.later == "rwkv4"][:1]
  assert len(whole.crossovers) == 3
  assert pair.verdict == "inside"
  assert whole.budgets == pytest.approx((5.8 * 6e4 * 125_000, 7.0 * 5e5 * 1e6))


def test_the_files_say_the_same_as_the_study(whole, tmp_path):
  scaling_results.write_csv(whole, tmp_path / "results.csv")
  rows = table(tmp_path)
  assert len(rows) == 48 and next(iter(rows[0])) == "architecture"
  assert float(rows[0]["flops"]) == pytest.approx(6.4 * 6e4 * 125_000)
  saved = json.loads(json.dumps(scaling_results.summary(whole)))
  assert "models" not in saved and len(saved["runs"]) == 48
  law = saved["laws"]["lstm"]
  assert law["intervals"]["E"][0] <= law["coefficients"]["E"] <= law["intervals"]["E"][1]
  assert law["optimum"]["budget"] == pytest.approx(5.8 * 5e5 * 1e6)
  assert len(saved["isoflops"]["gpt2"]["curves"]) == 4


def test_the_page_is_whole_and_fetches_nothing(html):
  page = Page(html)
  assert len(html) < 600_000
  assert len(page.ids) == len(set(page.ids))
  assert page.references and set(page.references) <= set(page.ids)
  pictures = re.findall(r"<svg viewBox.*?</svg>", html, flags=re.DOTALL)
  assert len(pictures) == 1 + 3 + 3
  for picture in pictures:
    assert re.search(r'aria-label="[^"]{40,}"', picture) and "currentColor" in picture
  assert html.count("<style>") == 1
  assert "read the text 1.4 times" in page.text
  assert re.search(r"RWKV-4 is predicted to be better than \S+ from [\d.]+ \w+ FLOPs on", page.text)


def test_a_part_of_a_study_shows_what_there_is(tmp_path):
  """A size that failed leaves too little of one architecture; one run of another has not ended."""
  models = {name: MODELS[name] for name in ("gpt2", "lstm")}
  lost = [(f"gpt2_{size}", tokens // 2048) for size in SIZES[2:] for tokens in TOKENS]
  lost.append(("lstm_60000", 125_000 // 2048))
  plan = write_study(tmp_path, models, lost=lost)
  errors = dict.fromkeys(["gpt2_250000", "gpt2_500000"], HOSTILE)
  study = scaling_results.gather(tmp_path, plan, errors)
  assert [a.name for a in study.fitted] == ["lstm"] and not study.crossovers
  assert "at least 3 different sizes; found 2" in study.architectures["gpt2"].refusal
  page = scaling_report.render(study)
  text = Page(page).text
  assert HOSTILE in text and HOSTILE not in page
  assert "GPT-2 has no law" in text and "Eight runs failed" in text and "One run unfinished" in text
  json.dumps(scaling_results.summary(study), allow_nan=False)


def test_a_study_of_which_nothing_is_there_has_a_page_too(tmp_path):
  plan = write_study(
    tmp_path, lost=[(f"{n}_{s}", t // 2048) for n in MODELS for s in SIZES for t in TOKENS]
  )
  assert "No architecture has enough finished runs" in scaling_report.render(
    scaling_results.gather(tmp_path, plan)
  )


@pytest.mark.parametrize(
  ("override", "message"),
  [
    ("tokens=(128,256)", "scaling.tokens needs at least 3 different entries"),
    ("parameters=(4000,4000,9000)", "scaling.parameters needs at least 3"),
    ("tokens=(1,256,512)", "each must be one or more"),
    ("tokens=(128,130,512,256)", "no two the same"),
    ("seeds=0", "scaling.seeds must be at least 1"),
    ("horizon=0.5", "scaling.horizon must be at least 1"),
    ("learning_rates=()", "scaling.learning_rates needs at least 1"),
  ],
)
def test_a_grid_that_cannot_be_fitted_is_refused_before_it_is_trained(override, message, tmp_path):
  config = config_schema.load(TINY, [f"--config.scaling.{override}"])
  with pytest.raises(UserError, match=re.escape(message)):
    scaling_study.run(config, tmp_path / "run", [])
  assert not (tmp_path / "run").exists()


def test_a_model_trains_every_length_even_where_one_fails(tmp_path, monkeypatch):
  model = {"name": "m", "config": {"seed": 0, "steps": 0, "optimizer": {"learning_rate": 0.0}}}
  model["runs"] = [{"steps": s, "seed": 3, "folder": f"runs/m/{s}"} for s in (1, 2, 4)]
  options = {"learning_rates": [0.5], "tuning_steps": 9}
  plan = {"models": [model], "config": {"seed": 3, "scaling": options}}
  write(tmp_path / "plan.json", plan)
  made = []

  def train(config, folder):
    made.append((config.steps, config.seed, config.optimizer.learning_rate, folder.name))
    if config.steps == 2:
      raise loop.Failed("not finite")

  monkeypatch.setattr(scaling_worker.worker, "train", train)
  with pytest.raises(loop.Failed, match="2 steps, seed 3: not finite"):
    scaling_worker.main(tmp_path, "m")
  assert made == [(1, 3, 0.5, "1"), (2, 3, 0.5, "2"), (4, 3, 0.5, "4")]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_tiny_study_runs_resumes_and_reports(tmp_path):
  """One architecture, three sizes up to width 20 and three lengths, in processes of its own."""
  folder = tmp_path / "study"
  argv = [sys.executable, str(ROOT / "launch.py"), "compare", f"--config={TINY}", "--quiet"]
  argv += [f"--workdir={folder}", "--config.scaling.architectures=('lstm',)"]
  one_device = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
  environment = os.environ | {"XLA_FLAGS": one_device, "JAX_PLATFORMS": "cpu"}

  def run():
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("result.json")}

  first = run()
  rows = table(folder)
  assert len(rows) == 9 and {row["status"] for row in rows} == {"finished"}
  assert "LSTM" in (folder / "report.html").read_text()
  killed = next((folder / "runs").glob("*/4_steps_seed_0/result.json"))
  killed.unlink()  # as if before its end
  second = run()
  assert second.pop(killed) > first.pop(killed)
  assert second == first
  assert table(folder) == rows
