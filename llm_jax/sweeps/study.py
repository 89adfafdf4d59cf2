"""The record of a sweep: its trials in an optuna study, what each was given and how it ended.

All trials stand in the study from the beginning, so a trial's number, folder and (but for TPE)
values depend on nobody's pace. A trial that runs, was stopped, whose process died or that failed
once is RUNNING; `claims` tells which of these somebody works on.
"""

import dataclasses
import itertools
import traceback
from pathlib import Path

import numpy as np
import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from llm_jax.errors import UserError
from llm_jax.sweeps import space as spaces
from llm_jax.training import early_stopping, loop

MOST_FAILURES = 2  # of a trial: it is retried once
MOST_DEATHS = 3  # of processes at one trial, without getting further
_MOST_DRAWS = 100  # in a row that bring nothing new: there is nothing new
_HALVING = 2  # one trial of so many goes on from each rung of successive halving

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What decides which trials a sweep has and how they are judged.

  Attributes:
    space: which values they take.
    sampler: grid, random or tpe.
    metric: of the validation text, by which they are compared.
    first_rung: steps after which successive halving prunes for the first time; 0: never.
    seed: of the sampler.
  """

  space: spaces.Space
  sampler: str
  metric: str
  first_rung: int
  seed: int

  @property
  def direction(self) -> str:
    return "minimize" if early_stopping.lower_is_better(self.metric) else "maximize"

  def points(self, count: int | None) -> list[spaces.Point]:
    """The first settings of a grid (None: all), or as many random ones, no two the same.

    Raises:
      UserError: a range without points.
    """
    if self.sampler == "grid":
      return spaces.grid(self.space)[:count]
    found, fruitless = {}, 0
    for draw in itertools.count():
      if len(found) == count or fruitless == _MOST_DRAWS:
        return list(found.values())
      trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(self._seed(draw))).ask()
      values = self.space.draw(_asking(trial))
      fruitless = fruitless + 1 if repr(values) in found else 0
      choices = {name: (trial.params[name], trial.distributions[name]) for name in trial.params}
      found.setdefault(repr(values), spaces.Point(values, choices))

  def sampler_of(self, number: int) -> optuna.samplers.BaseSampler:
    """What proposes the values of a trial: by its number, not by who asks."""
    return optuna.samplers.TPESampler(seed=self._seed(number), constant_liar=True)

  def pruner(self) -> optuna.pruners.BasePruner:
    if not self.first_rung:
      return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(
      min_resource=self.first_rung, reduction_factor=_HALVING
    )

  def _seed(self, number):
    return int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0])


def storage_url(name: str) -> str:
  """--storage as a URL: "sqlite" or "journal" are files of the sweep's folder."""
  if name in ("sqlite", "journal"):
    return f"{name}:///study.{'db' if name == 'sqlite' else 'journal'}"
  if "://" not in name:
    raise UserError(
      f"--storage={name}: expected sqlite, journal, or a database's URL such as "
      "postgresql://user@host/name."
    )
  return name


def _storage(url, folder):
  kind, _, path = url.partition(":///")
  try:
    if kind == "journal":
      return JournalStorage(JournalFileBackend(str(folder / path)))
    if kind == "sqlite":
      # A worker that writes keeps the others waiting for a moment only.
      return RDBStorage(f"sqlite:///{folder / path}", {"connect_args": {"timeout": 60}})
    return optuna.storages.get_storage(url)
  except Exception as error:  # of the database's own many kinds
    text = str(error).strip().splitlines() or [type(error).__name__]
    raise UserError(f"The storage {url} cannot be opened: {text[0]}") from error


def values_of(trial: FrozenTrial | Trial) -> dict:
  """What a trial sets of the config's keys; {} before they are proposed."""
  return {key: spaces.tuples(value) for key, value in trial.user_attrs.get("values", {}).items()}


class Study:
  """The study of a sweep.

  Args:
    folder: the sweep's.
    url: of `storage_url`.
    name: of the study in it.
    identity: of this sweep; a study bears that of the sweep it was made for.
    plan: what its trials are.

  Raises:
    UserError: the storage cannot be opened, or holds another sweep's study of this name.
  """

  def __init__(self, folder: Path, url: str, name: str, identity: str, plan: Plan):
    self.plan = plan
    self._storage = _storage(url, folder.absolute())
    self._study = optuna.create_study(
      storage=self._storage,
      study_name=name,
      direction=plan.direction,
      pruner=plan.pruner(),
      load_if_exists=True,
    )
    owner = self._study.user_attrs.get("sweep")
    if owner is None and not self.trials():
      self._study.set_user_attr("sweep", identity)
    elif owner != identity:
      raise UserError(
        f"The storage {url} holds a study {name!r} of another sweep. Choose another --storage, or "
        "another name for the folder of --workdir, which is the study's."
      )

  def fill(self, points: list[spaces.Point | None]) -> None:
    """Adds the trials that are not there yet; None: its values are proposed as it begins."""
    for point in points[len(self.trials()) :]:
      if point is None:
        self._study.add_trial(create_trial(state=TrialState.WAITING))
        continue
      made = {name: _recorded(*choice) for name, choice in point.choices.items()}
      self._study.add_trial(
        create_trial(
          state=TrialState.WAITING,
          params={name: value for name, (value, _) in made.items()},
          distributions={name: distribution for name, (_, distribution) in made.items()},
          user_attrs={"values": point.values},
        )
      )

  def trials(self) -> list[FrozenTrial]:
    """All trials, by number."""
    return self._study.get_trials(deepcopy=False)

  def unfinished(self) -> list[FrozenTrial]:
    """Those that are to be run, or run."""
    return [trial for trial in self.trials() if not trial.state.is_finished()]

  def begin(self, number: int, died_at: int | None) -> Trial | None:
    """A trial to run now, by whoever holds its claim.

    Args:
      died_at: the steps it had saved when a process died at it; None: none did.

    Returns:
      None if it has finished, or kills whoever runs it.
    """
    frozen = self.trials()[number]
    if frozen.state.is_finished():
      return None
    if frozen.state == TrialState.WAITING:
      self._storage.set_trial_state_values(frozen._trial_id, state=TrialState.RUNNING)
    self._study.sampler = self.plan.sampler_of(number)
    trial = Trial(self._study, frozen._trial_id)
    if died_at is not None:
      deaths = [*trial.user_attrs.get("deaths", ()), died_at]
      trial.set_user_attr("deaths", deaths)
      if deaths[-MOST_DEATHS:] == [died_at] * MOST_DEATHS:
        told = f"Its process died {MOST_DEATHS} times at step {died_at}: killed, or out of memory."
        self._end_failed(trial, told)
        return None
    if "values" not in trial.user_attrs:
      trial.set_user_attr("values", self.plan.space.draw(_asking(trial)))
    return trial

  def report(self, trial: Trial, step: int, value: float) -> bool:
    """Takes note of an evaluation; returns whether successive halving ends the trial here."""
    if step not in self.trials()[trial.number].intermediate_values:
      trial.report(value, step)
    return bool(self.plan.first_rung) and trial.should_prune()

  def finish(self, trial: Trial, result: dict) -> None:
    """Takes note of a whole run, or of one that was pruned.

    Args:
      result: what `loop.train` returned.
    """
    stopped = result.get("early_stopping", {})
    best = stopped.get("metric") == self.plan.metric  # and its checkpoint is the one to use
    value = stopped["best"] if best else result.get(self.plan.metric)
    if "pruned" in trial.user_attrs:
      self._study.tell(trial.number, state=TrialState.PRUNED)
    elif value is None or value - value != 0:
      self._end_failed(trial, f"{self.plan.metric} is {value} at its end.")
    else:
      self._study.tell(trial.number, value)

  def fail(self, trial: Trial, error: Exception) -> None:
    """Takes note of a failure; the first leaves the trial to be tried again."""
    known = isinstance(error, UserError | loop.Failed)
    text = str(error) if known else "".join(traceback.format_exception_only(error)).strip()
    if len(self._noted(trial, text)) >= MOST_FAILURES:
      self._study.tell(trial.number, state=TrialState.FAIL)

  def _end_failed(self, trial, text):
    self._noted(trial, text)
    self._study.tell(trial.number, state=TrialState.FAIL)

  def _noted(self, trial, text):
    errors = [*trial.user_attrs.get("errors", ()), text]
    trial.set_user_attr("errors", errors)
    return errors


def _asking(trial: Trial) -> spaces.Choose:
  """Choices made by the trial's sampler, or as they are recorded in it."""

  def choose(name, of):
    if isinstance(of, spaces.Choice):
      return of.values[of.labels.index(trial.suggest_categorical(name, of.labels))]
    if of.integer:
      return trial.suggest_int(name, of.low, of.high, log=of.log)
    return trial.suggest_float(name, of.low, of.high, log=of.log)

  return choose


def _recorded(value, of):
  """(value, distribution) as optuna keeps a choice that was made."""
  kinds = optuna.distributions
  if isinstance(of, spaces.Choice):
    return of.labels[of.values.index(value)], kinds.CategoricalDistribution(of.labels)
  if isinstance(of, spaces.Range):
    kind = kinds.IntDistribution if of.integer else kinds.FloatDistribution
    return value, kind(of.low, of.high, log=of.log)
  return value, of  # drawn by optuna, with its distribution
