"""A scaling study: architectures at several sizes, each trained on several lengths of text.

Each length is a run of its own, never a point along a longer one: a schedule ends where its run
does, and the loss in the middle of a cosine says nothing about a run of that length (Hoffmann et
al. 2022, arXiv:2203.15556, appendix B). Every run's result stays in the study's folder, so that a
study that was stopped or killed goes on where it was.
"""

import functools
import shlex
import sys
from pathlib import Path

from ml_collections import ConfigDict

from llm_jax.analysis import planning, scaling_report, scaling_results, workers
from llm_jax.errors import UserError
from llm_jax.training import workdir


def run(config: ConfigDict, folder: Path, command: list[str], progress: bool = True) -> int:
  """Runs a study; writes scaling.json, results.csv and report.html into the folder.

  Args:
    config: the shared names of every config, without a model and without steps, and `scaling`:
      architectures (names of experiments), model (options that all of them take), parameters (the
      sizes, widths are solved for), tolerance, tokens (the lengths), learning_rates and
      tuning_steps (tried for every size by itself; one rate alone is taken as it is), seeds,
      horizon (crossovers are looked for up to so many times the dearest run) and workers (0: as
      many as fit the machine).
    folder: its own folder; an unfinished study of the same config goes on.
    command: the command line, for the report.
    progress: whether to show how far each model is.

  Returns:
    exit code: 0, 1 if a run failed, 75 if a signal stopped it.
  """
  _check(config)
  workdir.check(folder, config)
  plan = _plan(config, command)
  with workdir.lock(folder):
    workdir.check(folder, config)  # again: another process may have come first
    plan = _begin(folder, config, plan)
    left = [model for model in plan["models"] if not _finished(folder, model)]
    left.sort(key=_work, reverse=True)  # the longest first, so that all end together
    jobs = [_job(folder, model, config.scaling) for model in left]
    with workers.Crew([job.name for job in jobs], progress) as crew:
      cpu_sets = workers.processors(config.scaling.workers, len(jobs)) if jobs else []
      codes = crew.run(jobs, cpu_sets)
    if crew.stopping:
      print("Stopped. Run the same command again to go on.", file=sys.stderr)
      return workers.STOPPED
    errors = {name: workers.last_words(_log(folder, name)) for name in codes if codes[name]}
    study = scaling_results.gather(folder, plan, errors)
    workdir.write_json(folder / "scaling.json", scaling_results.summary(study))
    scaling_results.write_csv(study, folder / "results.csv")
    scaling_report.write(study, folder)
  print(folder / "report.html")
  return 1 if errors else 0


def _check(config):
  """Refuses what would fail, or could not be fitted, only after all the training."""
  options = config.scaling
  for name, least in (("tuning_steps", 1), ("seeds", 1), ("workers", 0), ("horizon", 1)):
    if options[name] < least:
      raise UserError(f"scaling.{name} must be at least {least}, found {options[name]}.")
  for name, least in (
    ("architectures", 1),
    ("learning_rates", 1),
    ("parameters", 3),
    ("tokens", 3),
  ):
    if len({*options[name]}) < least:
      raise UserError(
        f"scaling.{name} needs at least {least} different "
        f"{'entry' if least == 1 else 'entries, or the law has too many coefficients'}; found "
        f"{tuple(options[name])}."
      )
  steps = [_steps(config, tokens) for tokens in options.tokens]
  if min(steps) < 1 or len({*steps}) < len(steps):
    raise UserError(
      f"scaling.tokens {tuple(options.tokens)} are {steps} steps of {config.batch_size} x "
      f"{config.seq_len} tokens; each must be one or more, and no two the same."
    )


def _steps(config, tokens):
  return round(tokens / (config.batch_size * config.seq_len))


def _plan(config, command):
  """Everything that is decided before training: each architecture at each size, and its runs."""
  plan = planning.of_data(config, shlex.join(["python", "launch.py", *command]))
  options = config.scaling
  vocab_size = plan["tokenizer"]["vocab_size"]
  models = []
  for architecture in options.architectures:
    of_one = [
      planning.architecture(architecture, config, _sized(options, size), vocab_size)
      for size in options.parameters
    ]
    counts = [model["parameters"] for model in of_one]
    if len({*counts}) < len(counts):
      raise UserError(
        f"The sizes {tuple(options.parameters)} of {architecture} come to {counts} parameters: "
        "no two may be the same. Spread scaling.parameters, or lower scaling.tolerance."
      )
    for size, model in zip(options.parameters, of_one, strict=True):
      name = f"{architecture}_{size}"
      seeds = range(config.seed, config.seed + options.seeds)
      runs = [_run(name, config, tokens, seed) for tokens in options.tokens for seed in seeds]
      models.append(model | {"architecture": architecture, "name": name, "runs": runs})
  return plan | {"models": models}


def _sized(options, size):
  return ConfigDict({**options, "variants": {}, "match": "parameters", "parameters": size})


def _begin(folder, config, plan):
  """Writes the plan; or takes the one that is there, if it is of the same text and tokenizer."""
  path = folder / "plan.json"
  if not path.exists():
    workdir.write_json(folder / "config.json", config.to_dict())
    workdir.write_json(path, plan)
    return workdir.read_json(path)
  begun = workdir.read_json(path)
  for part in ("corpus", "tokenizer"):
    if begun[part]["sha256"] != plan[part]["sha256"]:
      raise UserError(
        f"The {part} is not the one that {folder} was begun with (sha256 "
        f"{begun[part]['sha256'][:16]} then, {plan[part]['sha256'][:16]} now). Put it back, or "
        "choose another --workdir."
      )
  return begun


def _log(folder, name):
  return folder / "logs" / f"{name}.log"


def _run(name, config, tokens, seed):
  steps = _steps(config, tokens)
  folder = f"runs/{name}/{steps}_steps_seed_{seed}"
  tokens = steps * config.batch_size * config.seq_len
  return {"steps": steps, "tokens": tokens, "seed": seed, "folder": folder}


def _job(folder, model, options):
  name = model["name"]
  trials = len(options.learning_rates) if len(options.learning_rates) > 1 else 0
  steps = trials * options.tuning_steps + sum(run["steps"] for run in model["runs"])
  folders = [folder / "tuning" / name, folder / "runs" / name]
  command = "llm_jax.analysis.scaling_worker", str(folder.absolute()), name
  done = functools.partial(workers.progress, folders, steps)
  return workers.Job(name, command, _log(folder, name), done)


def _finished(folder, model):
  return all((folder / run["folder"] / "result.json").exists() for run in model["runs"])


def _work(model):
  """FLOPs of a model's runs."""
  return model["train_flops_per_token"] * sum(run["tokens"] for run in model["runs"])
