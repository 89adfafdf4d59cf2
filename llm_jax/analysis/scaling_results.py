"""A scaling study as plain data: its runs, the law of each architecture, and where laws cross."""

import csv
import dataclasses
import io
import itertools
from pathlib import Path

import numpy as np

from llm_jax.analysis import isoflop, scaling
from llm_jax.analysis.crossover import Crossover, crossover
from llm_jax.analysis.isoflop import Parabola
from llm_jax.analysis.scaling import Fit, PowerLaw
from llm_jax.errors import UserError
from llm_jax.training.workdir import read_json, write_text


@dataclasses.dataclass(frozen=True)
class Run:
  """One trained model.

  Attributes:
    architecture: its name.
    parameters: N, all that it learns, embeddings included.
    d_model: its width.
    tokens: D, of training.
    flops_per_token: of training, counted in the traced program.
    steps, seed, learning_rate: of the run; the rate is None if no trial has picked one yet.
    bits: bits per byte of the held-out text after the last step; None if it never got there.
    status: "finished", "failed" or "unfinished".
    error: the last words of its process if it failed, else "".
  """

  architecture: str
  parameters: int
  d_model: int
  tokens: int
  flops_per_token: float
  steps: int
  seed: int
  learning_rate: float | None
  bits: float | None
  status: str
  error: str

  @property
  def flops(self) -> float:
    """Of the whole training."""
    return self.tokens * self.flops_per_token


@dataclasses.dataclass(frozen=True)
class Architecture:
  """One architecture's runs and what they say.

  Attributes:
    name, title: as in the experiments.
    runs: all of them.
    grid: {size: {learning rate: score or None}} of the trials.
    fit: the law, or None.
    refusal: why there is no law; "" if there is one.
    parabolas: of the isoFLOP curves, ascending in budget.
    growth: N_opt as a power of the budget through the parabolas' minima, or None.
  """

  name: str
  title: str
  runs: tuple[Run, ...]
  grid: dict[int, dict[str, float | None]]
  fit: Fit | None
  refusal: str
  parabolas: tuple[Parabola, ...]
  growth: PowerLaw | None

  @property
  def finished(self) -> tuple[Run, ...]:
    """Runs with a score."""
    return tuple(run for run in self.runs if run.bits is not None)


@dataclasses.dataclass(frozen=True)
class Study:
  """A whole study.

  Attributes:
    plan: plan.json.
    architectures: by name, in the config's order.
    crossovers: of every pair of fitted architectures.
    budgets: FLOPs of the cheapest and the dearest finished run of all; None if there is none.
  """

  plan: dict
  architectures: dict[str, Architecture]
  crossovers: tuple[Crossover, ...]
  budgets: tuple[float, float] | None

  @property
  def fitted(self) -> list[Architecture]:
    """Those with a law."""
    return [a for a in self.architectures.values() if a.fit]


def gather(folder: Path, plan: dict, errors: dict[str, str] | None = None) -> Study:
  """Reads what the runs left and fits their laws.

  Args:
    folder: the study's.
    plan: its plan.json.
    errors: last words of the models' processes that failed, by the models' names.
  """
  errors = errors or {}
  architectures = {}
  for name in dict.fromkeys(model["architecture"] for model in plan["models"]):
    models = [model for model in plan["models"] if model["architecture"] == name]
    architectures[name] = _architecture(folder, name, models, errors)
  flops = [run.flops for a in architectures.values() for run in a.finished]
  budgets = (min(flops), max(flops)) if flops else None
  horizon = plan["config"]["scaling"]["horizon"]
  fitted = [a for a in architectures.values() if a.fit]
  crossovers = [
    crossover((a.name, b.name), (a.fit, b.fit), budgets[0], horizon * budgets[1])
    for a, b in itertools.combinations(fitted, 2)
  ]
  return Study(plan, architectures, tuple(crossovers), budgets)


def _architecture(folder, name, models, errors) -> Architecture:
  runs, grid = [], {}
  for model in models:
    path = folder / "tuning" / model["name"] / "chosen.json"
    chosen = read_json(path) if path.exists() else {"grid": {}, "learning_rate": None}
    grid[model["parameters"]] = chosen["grid"]
    rate = chosen["learning_rate"]
    runs += [_run(folder, model, planned, rate, errors) for planned in model["runs"]]
  done = [run for run in runs if run.bits is not None]
  columns = [
    [getattr(run, key) for run in done]
    for key in ("parameters", "tokens", "bits", "flops_per_token")
  ]
  cells = [f"{run.parameters} {run.tokens}" for run in done]
  fit, refusal = None, ""
  try:
    fit = scaling.fit(*columns, blocks_R=cells)
  except UserError as error:
    refusal = str(error)
  parabolas = []
  for budget, sizes, losses in isoflop.slices(*columns):
    # The law's scatter is that of log L; there are too few sizes for one of the parabola's own.
    noise = (fit.noise * float(np.mean(losses)), fit.freedom) if fit else None
    parabolas.append(isoflop.parabola(budget, sizes, losses, noise))
  return Architecture(
    name=name,
    title=models[0]["title"],
    runs=tuple(runs),
    grid=grid,
    fit=fit,
    refusal=refusal,
    parabolas=tuple(parabolas),
    growth=isoflop.growth(parabolas),
  )


def _run(folder, model, planned, rate, errors) -> Run:
  path = folder / planned["folder"] / "result.json"
  bits = read_json(path)["bits_per_byte"] if path.exists() else None
  bits = bits if bits is not None and np.isfinite(bits) else None
  error = errors.get(model["name"], "") if bits is None else ""
  return Run(
    architecture=model["architecture"],
    parameters=model["parameters"],
    d_model=model["d_model"],
    tokens=planned["tokens"],
    flops_per_token=model["train_flops_per_token"],
    steps=planned["steps"],
    seed=planned["seed"],
    learning_rate=rate,
    bits=bits,
    status="finished" if bits is not None else "failed" if error else "unfinished",
    error=error,
  )


def write_csv(study: Study, path: Path) -> None:
  """One row a run; an empty cell is what was not measured."""
  names = {"bits": "bits_per_byte"}
  rows = [
    {names.get(key, key): value for key, value in dataclasses.asdict(run).items()}
    | {"flops": run.flops}
    for a in study.architectures.values()
    for run in a.runs
  ]
  text = io.StringIO()
  writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  write_text(path, text.getvalue())


def summary(study: Study) -> dict:
  """Everything the study found, for scaling.json."""
  plan = {key: value for key, value in study.plan.items() if key != "models"}
  return plan | {
    "runs": [dataclasses.asdict(run) for a in study.architectures.values() for run in a.runs],
    "laws": {a.name: _law(a) for a in study.architectures.values()},
    "isoflops": {
      a.name: {
        "curves": [dataclasses.asdict(curve) for curve in a.parabolas],
        "growth": a.growth and dataclasses.asdict(a.growth),
      }
      for a in study.architectures.values()
    },
    "crossovers": [dataclasses.asdict(c) | {"verdict": c.verdict} for c in study.crossovers],
  }


def _law(a: Architecture) -> dict:
  """A law with its intervals, and what it says of the largest budget that was trained."""
  if not a.fit:
    return {"refused": a.refusal}
  budget = a.fit.budgets[1]
  best, again = a.fit.optimum(np.array([budget]))
  return {
    "coefficients": dataclasses.asdict(a.fit.law),
    "intervals": {name: a.fit.interval(name) for name in scaling.NAMES},
    "undetermined": a.fit.undetermined,
    "noise_of_log_loss": a.fit.noise,
    "flops_per_token": dataclasses.asdict(a.fit.cost),
    "budgets": a.fit.budgets,
    "optimum": {
      "budget": budget,
      **{
        key: [float(getattr(best, key)[0]), *scaling.interval(getattr(again, key)[:, 0])]
        for key in ("parameters", "tokens", "loss")
      },
    },
    "exponents": a.fit.exponents(budget),
  }
