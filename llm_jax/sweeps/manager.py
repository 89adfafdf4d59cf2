"""A sweep from its plan to its picture: `run` makes it, keeps workers at it, and tells what came.

Whatever is killed, the same command goes on: the study has every trial from the beginning, a
worker's trial is free again when the worker dies, and its run goes on from its checkpoint.
"""

import contextlib
import signal
import socket
import sys
import time
from pathlib import Path

from ml_collections import ConfigDict

from llm_jax import config as config_schema
from llm_jax import objective
from llm_jax.analysis.workers import STOPPED
from llm_jax.errors import UserError
from llm_jax.sweeps import cluster, crew, outcome
from llm_jax.sweeps import space as spaces
from llm_jax.sweeps import sweep as sweeps
from llm_jax.sweeps.display import Display
from llm_jax.sweeps.flags import Options
from llm_jax.sweeps.study import MOST_DEATHS, Plan
from llm_jax.training import early_stopping, inputs, source, teaching, workdir

_TRIALS = 20  # where no grid says how many
_RUNGS = 8  # evaluations of a run, where only pruning asks for them
_JOBS = 4  # on a cluster
_SECONDS = 1.0  # between two looks at the workers
_FACTOR, _POINTS = 8, 7  # of the learning rates around an experiment's own


def run(
  config: ConfigDict,
  space: spaces.Space | dict | None,
  options: Options,
  folder: Path,
  flags: list[str],
  progress: bool = True,
) -> int:
  """Runs a sweep, or goes on with it; leaves results.csv, response.svg and result.json.

  Args:
    config: of every trial, but for the values of the space.
    space: of the experiment; None: learning rates around its own.
    options: of the command line.
    folder: the sweep's own.
    flags: those that gave the config, for the command that trains the best trial's.
    progress: whether to show how the trials stand.

  Returns:
    exit code: 0, 1 if a trial failed for good, 75 if a signal stopped it.

  Raises:
    UserError: a mistake in the space, the options or the folder, or workers that cannot work.
  """
  space = _learning_rates(config) if space is None else spaces.space_of(space)
  if options.prune and not config.eval.every:
    config.eval.every = max(1, config.steps // _RUNGS)
    told = f"--prune evaluates every {config.eval.every} steps; --config.eval.every says otherwise."
    print(told, file=sys.stderr)
  first_rung = config.eval.every if options.prune else 0
  plan = Plan(space, options.sampler, options.metric, first_rung, config.seed)
  points = _points(plan, options.trials)
  _check(config, space, points)
  workdir.check(folder, sweeps.with_plan(config, plan))
  finished = outcome.read(folder)
  if finished is None or finished["trials"] < len(points):
    with contextlib.ExitStack() as owned:
      sweep = _begin(owned, config, plan, points, options, folder)
      code = _Manager(sweep, options, progress).work()
      if code == STOPPED:
        print("Stopped. Run the same command again to go on.", file=sys.stderr)
        return STOPPED
      finished = outcome.write(sweep)
  print(outcome.told(finished, folder, flags))
  return 1 if finished["failed"] else 0


def _learning_rates(config):
  rate = config.optimizer.learning_rate
  if not rate > 0:
    raise UserError("The experiment has no sweep(), and no learning rate to try others around.")
  low, high = rate / _FACTOR, rate * _FACTOR
  print(
    f"The experiment has no sweep() beside its get_config(): learning rates from {low:g} to "
    f"{high:g}, around its own {rate:g}.",
    file=sys.stderr,
  )
  return spaces.space_of({"optimizer.learning_rate": spaces.log_uniform(low, high, _POINTS)})


def _points(plan, trials):
  """The settings of all trials; None where one is proposed as it begins."""
  if plan.sampler == "tpe":
    return [None] * (trials or _TRIALS)
  points = plan.points(trials or (_TRIALS if plan.sampler == "random" else None))
  if trials and len(points) < trials:
    print(f"The space has only {len(points)} settings.", file=sys.stderr)
  return points


def _check(config, space, points):
  """Refuses a space that the config has no place for."""
  if not space.keys:
    raise UserError("The space of sweep() is empty: name at least one key and its values.")
  for key in space.keys:
    config_schema.check_key(config, key)
  for point in points:
    if point is not None:
      config_schema.with_values(config, point.values)


def _begin(owned, config, plan, points, options, folder):
  """The sweep in a folder that is ours as long as `owned` is open; before a new one is made, what
  its first run is made of is tried."""
  if not (folder / "config.json").exists():
    values = points[0].values if points[0] else {}
    _try(config_schema.with_values(config, values), plan.metric, folder)
  with contextlib.ExitStack() as held:
    held.enter_context(workdir.lock(folder))
    sweep = sweeps.create(folder, config, plan, options.storage, bool(options.cluster))
    sweep.study.fill(points)
    if not sweeps.is_shared(folder):
      owned.push(held.pop_all())
      return sweep
  # Other machines may work on it too, each with a manager of its own.
  owned.enter_context(workdir.lock(folder / "managers" / socket.gethostname()))
  return sweep


def _try(config, metric, folder):
  """Builds what the first run is made of, so that a mistake is told now and not by each trial."""
  config = source.resolve(config, folder)
  chosen = objective.make(config)
  text = inputs.load_text(config)
  tokenizer = inputs.load_tokenizer(config, folder, text)
  labels = inputs.load_labels(config, text)
  model = inputs.model(config, tokenizer, labels)
  constants = teaching.constants(config, model, tokenizer)
  batches = inputs.Batches(config, text, tokenizer, labels)
  early_stopping.check_metric(metric, chosen, model, batches, constants, "--metric")


class _Manager:
  """Keeps as many workers as it may at the trials that are left."""

  def __init__(self, sweep: sweeps.Sweep, options: Options, progress: bool):
    self._sweep = sweep
    self._display = Display(sweep, progress)
    self._stopping, self._killed = False, 0
    left = len(sweep.study.unfinished())
    if options.cluster:
      size = options.workers or min(_JOBS, max(left, 1))
      self._crew = cluster.Slurm(sweep.folder, size, options.cluster_options)
    else:
      self._crew = crew.Crew(sweep.folder, crew.places(options.workers, left) if left else [])

  def work(self) -> int:
    """Returns when no trial is left (0), or when all workers have saved after a signal (75)."""
    handlers = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
      with self._display:
        while (left := self._sweep.study.unfinished()) or self._crew.running:
          if self._stopping and not self._crew.running:
            return STOPPED
          self._look(left)
          time.sleep(_SECONDS)
      return 0
    except BaseException:
      self._crew.stop()  # nobody trains on behind an error
      raise
    finally:
      for number, handler in handlers.items():
        signal.signal(number, handler)

  def _look(self, left):
    for code, words in self._crew.ended():
      if code not in (0, STOPPED) and code > 0:
        raise UserError(f"A worker cannot work: {words.removeprefix('error: ')}")
      self._killed += code < 0
      if self._killed > MOST_DEATHS * (len(self._sweep.study.trials()) + 1):
        raise UserError(f"Workers are killed again and again; the last one said: {words}")
    waiting = [t for t in left if t.state.name == "WAITING" or self._sweep.claims.free(t.number)]
    # Of those that run some may still be starting: each of these will take one that waits.
    starting = max(0, self._crew.running - (len(left) - len(waiting)))
    if not self._stopping and self._crew.running < self._crew.size and starting < len(waiting):
      self._crew.start()
    self._display.update(self._crew.running)

  def _stop(self, *_):
    self._stopping = True
    self._crew.stop()
