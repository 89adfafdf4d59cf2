"""What a run has used and reached: reads the metrics of each step while the next one runs."""

import contextlib
import itertools
import math
import time
from collections.abc import Iterator

import jax
import numpy as np

from llm_jax.errors import UserError
from llm_jax.training.diagnosis import largest_activations
from llm_jax.training.inputs import document_ids
from llm_jax.training.metrics import Metrics
from llm_jax.training.step import TrainState

_MOST_SKIPPED = 10  # updates in a row that are not finite
_MOST_IDS = 20  # documents named in a message


class Failed(Exception):  # noqa: N818  the run's fault, not the program's
  """The run cannot go on; the text says why."""


class Meter:
  """Adds up tokens and seconds, and writes the rows of metrics.

  Tokens are predicted ones (those with a weight). Seconds are those of training: compilation, the
  first step after a start, evaluation and the wait for a save are not counted. FLOPs are those of
  every position, padding included.

  Args:
    run: what `loop.Run` is.
    rows: where rows are written; None in all processes but the first.
    totals: of the restored checkpoint: tokens, seconds.
  """

  def __init__(self, run, rows: Metrics | None, totals: dict):
    self._run, self._rows = run, rows
    self.tokens, self.seconds = totals["tokens"], totals["seconds"]
    self._validation = {}
    self._pending = None
    self._clock = None  # when it was last read; None: before the first step
    self._marked = (self.tokens, self.seconds)  # at the last row, for tokens a second
    self._speed = None  # running mean over about ten steps, for the progress bar

  def made(self, step: int, values: dict, batch: dict, state: TrainState) -> None:
    """Takes note of a step that may still be running, and reads the one before.

    Args:
      step: its number, from 1.
      values: its metrics, scalars on the device.
      batch: its rows, numpy.
      state: the state after it.

    Raises:
      Failed: ten updates in a row, the one read the last of them, were not finite.
    """
    self._state = state  # the one before is used up
    self._read()
    self._pending = (step, values, batch)
    if self._clock is None:
      self._read()
      self._clock, self._marked = time.monotonic(), (self.tokens, self.seconds)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Reads the last step, then stops the clock."""
    self._read()
    yield
    self._clock = time.monotonic()

  def validate(self, step: int, state: TrainState) -> dict[str, float]:
    """Evaluates on the validation text and writes its row.

    Returns:
      its metrics; the loss is in nats for each target.
    """
    with self.paused():
      run, sums, pending = self._run, {}, {}
      for rows in itertools.islice(run.batches.validation(), run.config.eval.batches or None):
        launched = run.strategy.evaluate(state, run.strategy.put(rows))
        _add(sums, pending)
        pending = launched
      _add(sums, pending)
      values = {name: total / max(count, 1.0) for name, (total, count) in sums.items()}
      nats, targets = sums["loss"]
      if not targets:
        raise UserError(
          "The validation part holds nothing to predict: its documents are too short for the "
          "objective. Give more or longer texts."
        )
      if run.batches.validation_targets:
        # Evaluated in part, the text counts in the proportion of its tokens.
        num_bytes = run.text.validation_bytes * targets / run.batches.validation_targets
        values["bits_per_byte"] = nats / math.log(2) / max(num_bytes, 1e-9)
      self._validation = {"step": step, **values, **self._used(step)}
      if self._rows:
        self._rows.row("validation", **self._validation)
    return values

  def result(self, step: int, state: TrainState) -> dict:
    """The validation row of the last step, and what else is said of a finished run."""
    if self._validation.get("step") != step:  # killed after the last save, before its result
      self._validation = self._run.last_validation(step)
    if not self._validation:
      self.validate(step, state)
    skipped = int(jax.device_get(state.skipped))
    return {**self._validation, "skipped": skipped, "parameters": self._run.parameters}

  def _read(self) -> None:
    """Waits for the pending step and writes its row."""
    if self._pending is None:
      return
    (step, values, batch), self._pending = self._pending, None
    values = {name: value.item() for name, value in jax.device_get(values).items()}
    values = {"loss": values.pop("loss"), **values}
    tokens = int(values.pop("tokens"))
    self.tokens += tokens
    if self._clock is not None:
      now = time.monotonic()
      took, self._clock = now - self._clock, now
      self.seconds += took
      speed = tokens / max(took, 1e-9)
      self._speed = speed if self._speed is None else 0.9 * self._speed + 0.1 * speed
    in_a_row = values.pop("skipped_in_a_row")
    if self._rows:
      self._rows.progress(step, values["loss"], self._speed)
      self._tell(step, values)
    if in_a_row >= _MOST_SKIPPED:
      raise Failed(self._diverged(step, in_a_row, batch))

  def _tell(self, step: int, values: dict) -> None:
    every, steps = self._run.config.log.every, self._run.config.steps
    if every and (step % every == 0 or step in (1, steps)):
      tokens, seconds = self.tokens - self._marked[0], self.seconds - self._marked[1]
      speed = {"tokens_per_second": tokens / seconds} if seconds > 0 else {}
      self._rows.row("train", step, **values, **speed, **self._used(step))
      self._marked = (self.tokens, self.seconds)

  def _used(self, step: int) -> dict:
    config = self._run.config
    flops = self._run.flops_per_token * config.batch_size * config.seq_len * step
    return {"tokens": self.tokens, "seconds": self.seconds, "flops": flops}

  def _diverged(self, step: int, in_a_row: int, batch: dict) -> str:
    ids = document_ids(batch)
    more = f" and {len(ids) - _MOST_IDS} more" if len(ids) > _MOST_IDS else ""
    text = (
      f"{in_a_row} updates in a row had a loss or gradient that was not finite; stopped at step "
      f"{step}. Documents of its batch: {', '.join(map(str, ids[:_MOST_IDS]))}{more}. "
    )
    if jax.process_count() == 1:  # else no process sees all of the batch
      found = largest_activations(self._run.model, self._run.objective, self._state.params, batch)
      text += "Largest activations: " + ", ".join(f"{name} {v:.3g}" for name, v in found) + ". "
    return text + "Try a lower learning rate, a longer warm-up or optimizer.clip_norm."


def _add(sums: dict, pairs: dict) -> None:
  """Adds (sum, count) pairs on the device to those of the host, in float64."""
  for name, (total, count) in jax.device_get(pairs).items():
    before = sums.get(name, (0.0, 0.0))
    sums[name] = (before[0] + np.float64(total).item(), before[1] + np.float64(count).item())
