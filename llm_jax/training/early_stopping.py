"""Early stopping: a run ends once a metric of its validation text has stopped getting better."""

from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from llm_jax.errors import UserError, unknown
from llm_jax.models import build

_BETTER_LOWER = ("loss", "perplexity", "bits", "error")  # words in a metric's name


def lower_is_better(metric: str) -> bool:
  """By its name: losses and their like; all else, such as an accuracy, is better higher."""
  return any(word in metric for word in _BETTER_LOWER)


class EarlyStopping:
  """How far the evaluations have got: part of each checkpoint, so that a resumed run stops where
  the uninterrupted one does.

  Attributes:
    metric: by which a checkpoint is the best; "loss" where nothing stops a run.

  Args:
    config: the whole config.
    enough: asked after each evaluation with (step, metrics); True ends the run too.

  Raises:
    UserError: patience that makes no sense, or evaluations that never come.
  """

  def __init__(self, config: ConfigDict, enough: Callable[[int, dict], bool] | None = None):
    chosen = config.early_stopping
    self._enough, self._ended = enough, False
    self._on, self._patience = bool(chosen.metric), chosen.patience
    self.metric = chosen.metric or "loss"
    self._best, self._best_step, self._since = None, None, 0
    if self._on and chosen.patience < 1:
      raise UserError(f"early_stopping.patience must be 1 or more, found {chosen.patience}.")
    if self._on and not config.eval.every:
      raise UserError(
        "early_stopping reads the evaluations, but eval.every is 0: one at the end only. Set "
        "--config.eval.every to the steps between them."
      )

  @property
  def finished(self) -> bool:
    """Whether as many evaluations in a row as `patience` brought nothing better, or `enough` said
    so."""
    return self._ended or (self._on and self._since >= self._patience)

  def judge(self, step: int, values: dict[str, float]) -> bool:
    """Takes note of an evaluation; returns whether it is the best so far, if that matters."""
    self._ended = self._enough is not None and self._enough(step, values)
    if not self._on:
      return False
    value, best = values[self.metric], self._best
    better = value - value == 0 and (  # a number, neither NaN nor infinite
      best is None or (value < best if lower_is_better(self.metric) else value > best)
    )
    self._since = 0 if better else self._since + 1
    if better:
      self._best, self._best_step = value, step
    return better

  def state(self) -> dict:
    """JSON, for `restore`."""
    return {"best": self._best, "best_step": self._best_step, "since": self._since}

  def restore(self, state: dict) -> None:
    self._best, self._best_step, self._since = (
      state[name] for name in ("best", "best_step", "since")
    )

  def result(self) -> dict:
    """What result.json says of it; {} if it is off."""
    if not self._on:
      return {}
    found = {"metric": self.metric, "best": self._best, "best_step": self._best_step}
    return {"early_stopping": {**found, "stopped": self.finished}}

  def __str__(self):
    if self._ended:
      return "that was enough"
    return (
      f"{self.metric} has not got better than {self._best:.5g} of step {self._best_step} in "
      f"{self._since} evaluations"
      if self._best is not None
      else f"{self.metric} was not finite in {self._since} evaluations"
    )


def check_metric(metric: str, objective, model, batches, constants: dict, asked: str) -> None:
  """Refuses a metric that the evaluations will not have, before the first step.

  Args:
    metric: its name.
    objective, model, batches, constants: what the run evaluates with.
    asked: where the user named it.
  """
  rows = {name: x for name, x in next(batches.validation()).items() if name != "document_ids"}

  def evaluate(params, rows):
    return objective.loss(model, params, rows, {}, train=False, **constants)[1]

  names = set(jax.eval_shape(evaluate, build.abstract_params(model), rows))
  names |= {"bits_per_byte"} if batches.validation_targets else set()
  if metric not in names:
    raise unknown(asked, metric, names)
