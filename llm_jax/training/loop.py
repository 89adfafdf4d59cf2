"""The training loop: `train` runs a config in a folder, on from wherever that folder stands."""

import contextlib
import hashlib
import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from rich.console import Console

from llm_jax import objective
from llm_jax.errors import UserError
from llm_jax.training import inputs, metrics, source, teaching, word_table, workdir
from llm_jax.training.checkpoints import Checkpoints
from llm_jax.training.early_stopping import EarlyStopping, check_metric
from llm_jax.training.meter import Failed, Meter
from llm_jax.training.programs import Programs
from llm_jax.training.step import TrainState

__all__ = ["Failed", "Run", "Stopped", "train"]

_log = logging.getLogger(__name__)

_RESULT = "result.json"
_STEPS_BETWEEN_QUESTIONS = 10  # of processes about signals


class Stopped(Exception):  # noqa: N818  no error
  """A signal stopped the run after a whole step; the text says which, and what was saved."""


def train(
  config: ConfigDict,
  folder: Path | str,
  progress: bool = True,
  programs: Programs | None = None,
  enough: Callable[[int, dict], bool] | None = None,
) -> dict:
  """Trains until `config.steps`, resuming if the folder holds a checkpoint of this config.

  Every process of a distributed run calls this; process 0 writes all files but the checkpoints,
  in which all take part. A finished run returns at once and touches nothing.

  Args:
    config: `llm_jax.config.base()` with a model.
    folder: the run folder; made if there is none.
    progress: whether anything is shown on the terminal.
    programs: what this run shares with others of the process.
    enough: asked after each evaluation with (step, its metrics); True ends the run there.

  Returns:
    result.json: step, loss and bits_per_byte of the validation text at the end, tokens, seconds,
    flops, skipped, parameters; with early_stopping, what the best was and whether it stopped.

  Raises:
    UserError: a mistake in the config, the data or the folder, or a full disk.
    Stopped: SIGTERM or SIGINT came; the step was finished and the run saved.
    Failed: ten updates in a row were not finite.
  """
  folder = Path(folder)
  _check(config)
  config = source.resolve(config, folder)
  workdir.check(folder, config)
  if (folder / _RESULT).exists():
    return workdir.read_json(folder / _RESULT)
  with _Signals() as signals, _owned(folder, config, progress) as console:
    run = Run(config, folder, programs, enough)
    run.write()
    with Checkpoints(folder, config.checkpoint, run.stopping.metric) as saved:
      step, state, totals = run.begin(saved)
      with _rows(folder, config.steps, step, console) as rows:
        meter = Meter(run, rows, totals)
        while step < config.steps and not run.stopping.finished:
          step += 1
          batch = next(run.batches.train)
          state, values = run.strategy.step(state, run.strategy.put(batch))
          meter.made(step, values, batch, state)
          stop = signals.agreed(step)
          _evaluate_and_save(run, saved, meter, step, state, stop)
          if stop and step < config.steps and not run.stopping.finished:
            saved.wait()  # said to be saved only when it is
            raise Stopped(_told(stop, step, config))
        result = meter.result(step, state) | run.stopping.result()
    if run.stopping.finished:
      _log.info("stopped after step %d of %d: %s", step, config.steps, run.stopping)
    if jax.process_index() == 0:
      workdir.write_json(folder / _RESULT, result)
  return result


def _evaluate_and_save(run, saved, meter, step, state, stop) -> None:
  """Does after a step what is due: first the evaluation, which may make a checkpoint the best."""
  config = run.config
  due = lambda every: every and step % every == 0
  value, best = None, False
  if due(config.eval.every) or step == config.steps:
    values = meter.validate(step, state)
    value, best = values[run.stopping.metric], run.stopping.judge(step, values)
  every, last = config.checkpoint.every, step == config.steps or run.stopping.finished
  if due(every) or (every and (stop or best or last)):
    with meter.paused():
      saved.save(step, run.strategy.to_checkpoint(state), run.place(meter), value)
  elif due(config.log.every):
    saved.check()


class Run:
  """All that a config stands for, built and checked before the first step; arguments as `train`'s.

  Attributes:
    config: the whole config.
    text, batches: what is trained on, see `inputs`.
    model, objective, strategy: what a step is made of.
    stopping: whether it is to end before the last step.
    parameters: how many the model has.
    flops_per_token: of training, for each position.
  """

  def __init__(
    self,
    config: ConfigDict,
    folder: Path,
    programs: Programs | None = None,
    enough: Callable | None = None,
  ):
    self.config, self._folder = config, folder
    programs = programs or Programs()
    self.objective = objective.make(config)
    self.text = inputs.load_text(config)
    self._tokenizer = inputs.load_tokenizer(config, folder, self.text)
    self._labels = inputs.load_labels(config, self.text)
    self.model = inputs.model(config, self._tokenizer, self._labels)
    constants = teaching.constants(config, self.model, self._tokenizer)
    self.strategy = programs.strategy(config, self.model, self.objective, constants)
    self.batches = inputs.Batches(config, self.text, self._tokenizer, self._labels)
    self.stopping = EarlyStopping(config, enough)
    if metric := config.early_stopping.metric:
      parts = (self.objective, self.model, self.batches, constants)
      check_metric(metric, *parts, "early_stopping.metric")
    model_config = inputs.model_config(config, self._tokenizer, self._labels)
    targets = self.objective.target_length(config.seq_len)
    self.parameters, self.flops_per_token, taken = programs.cost(
      model_config, config.seq_len, targets
    )
    self._identity = {
      "vocab_size": self._tokenizer.vocab_size,
      "tokenizer": self._tokenizer.sha256,
      "text": self.text.sha256,
      "tokens": self.batches.sha256,
    }
    _log.info(
      "%d parameters, %.3g training FLOPs a token, vocabulary of %d; %s",
      *(self.parameters, self.flops_per_token, self._tokenizer.vocab_size),
      self.strategy.describe(),
    )
    # Read before anything is written; a run that goes on has no use for it.
    starts = not any((folder / "checkpoints").glob("[0-9]*"))
    parts = (self.model, self._tokenizer, self._labels)
    self._source = source.read(config, *parts) if starts and config.init_from else {}
    self._word_rows = word_table.read(config, self._tokenizer) if starts else None
    _log.info("forms: %s", ", ".join(sorted(taken)))

  def write(self) -> None:
    """Writes what the run is into its folder: not before, so that a mistake in the config leaves
    nothing behind that the mended config would be refused for."""
    if jax.process_count() > 1:
      multihost_utils.assert_equal(_bytes(self._identity), "The processes read different data")
    if jax.process_index() > 0:
      return
    with workdir.disk_errors(self._folder):
      workdir.write_json(self._folder / "config.json", self.config.to_dict())
      workdir.write_json(self._folder / "environment.json", workdir.environment())
      if not (self._folder / inputs.TOKENIZER).exists():
        self._tokenizer.save(self._folder / inputs.TOKENIZER)
      if self._labels:
        workdir.write_json(self._folder / inputs.LABELS, self._labels)

  def begin(self, saved: Checkpoints) -> tuple[int, TrainState, dict]:
    """(steps made, state, totals): of the newest checkpoint, or of the beginning."""
    step = saved.latest()
    if step is None:
      state = self.strategy.init(jax.random.PRNGKey(self.config.seed))
      return 0, self._initialised(state), {"tokens": 0, "seconds": 0.0}
    place = saved.read(step)
    self._check_identity(place["identity"])
    state = saved.restore(step, self.strategy.abstract_checkpoint())
    self.batches.train.set_state(place["iterator"])
    self.stopping.restore(place["early_stopping"])
    _log.info("resumed after step %d", step)
    return step, self.strategy.from_checkpoint(state), place

  def place(self, meter: Meter) -> dict:
    """What a checkpoint holds beside the state."""
    return {
      "tokens": meter.tokens,
      "seconds": meter.seconds,
      "iterator": self.batches.train.get_state(),
      "identity": self._identity,
      "early_stopping": self.stopping.state(),
    }

  def last_validation(self, step: int) -> dict:
    """The validation row of a step as metrics.jsonl has it; {} if it has none."""
    rows = metrics.read(self._folder / "metrics.jsonl")
    found = [row for row in rows if row.get("split") == "validation" and row["step"] == step]
    return {key: value for key, value in found[-1].items() if key != "split"} if found else {}

  def _initialised(self, state: TrainState) -> TrainState:
    """The state with the parameters of `config.init_from`, or the word vectors of
    `config.model.embedding.init_from`, if there is one of them."""
    if not (self._source or self._word_rows):
      return state
    tree = self.strategy.to_checkpoint(state)
    if self._word_rows:
      params = word_table.put(*self._word_rows, tree.params)
    else:
      params = source.put(self._source, tree.params)
    self._source, self._word_rows = {}, None
    return self.strategy.from_checkpoint(tree.replace(params=params))

  def _check_identity(self, before: dict) -> None:
    if before["vocab_size"] != self._identity["vocab_size"]:
      raise UserError(
        f"The checkpoints of {self._folder} were trained with a vocabulary of "
        f"{before['vocab_size']} tokens, but its {inputs.TOKENIZER} has "
        f"{self._identity['vocab_size']}. Put the run's own tokenizer back, or choose another "
        "--workdir."
      )
    for name, what in (("text", "training text"), ("tokens", inputs.TOKENIZER)):
      if before[name] != self._identity[name]:
        raise UserError(
          f"The {what} of {self._folder} is not the one that its checkpoints were trained with "
          f"(sha256 {before[name][:16]} then, {self._identity[name][:16]} now). Put it back, or "
          f"choose another --workdir (init_from={self._folder} starts from these parameters)."
        )


class _Signals:
  """Notes SIGTERM and SIGINT instead of dying at once; a second one kills."""

  def __init__(self):
    self._name = ""
    self._handlers = {}

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._handlers[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, kind, error, traceback):
    for number, handler in self._handlers.items():
      signal.signal(number, handler if handler is not None else signal.SIG_DFL)
    if self._name and kind is None:  # it came when the run was as good as finished
      number = signal.Signals[self._name]
      if self._handlers[number] not in (signal.SIG_DFL, signal.default_int_handler):
        signal.raise_signal(number)  # whoever had a handler before us wants to know

  def _note(self, number, frame):
    self._name = signal.Signals(number).name
    for handled in self._handlers:
      signal.signal(handled, signal.SIG_DFL)

  def agreed(self, step: int) -> str:
    """The signal to stop for after this step, or "". Several processes stop at the same step:
    they ask each other now and then, for a question costs a synchronisation."""
    if jax.process_count() == 1:
      return self._name
    if step % _STEPS_BETWEEN_QUESTIONS:
      return ""
    numbers = multihost_utils.process_allgather(np.int32(bool(self._name)))
    return (self._name or "a signal to another process") if numbers.any() else ""


def _check(config: ConfigDict) -> None:
  if config.steps < 1:
    raise UserError(f"steps must be 1 or more, found {config.steps}.")
  for name, value in (
    ("eval.every", config.eval.every),
    ("eval.batches", config.eval.batches),
    ("log.every", config.log.every),
  ):
    if value < 0:
      raise UserError(f"{name} must be 0 or more, found {value}.")


@contextlib.contextmanager
def _owned(folder: Path, config: ConfigDict, progress: bool) -> Iterator[Console]:
  """Locks the folder and logs there; process 0 alone does so."""
  with contextlib.ExitStack() as stack:
    console = Console(quiet=True)
    if jax.process_index() == 0:
      stack.enter_context(workdir.lock(folder))
      workdir.check(folder, config)  # again: another process may have come first
      console = stack.enter_context(metrics.run_log(folder, progress))
    yield console


def _rows(folder: Path, steps: int, start: int, console: Console):
  """The run's `Metrics` in process 0, None in the others."""
  if jax.process_index() == 0:
    return metrics.Metrics(folder, steps, start, console)
  return contextlib.nullcontext()


def _bytes(identity: dict) -> np.ndarray:
  digest = hashlib.sha256(json.dumps(identity).encode()).digest()
  return np.frombuffer(digest, np.uint8)


def _told(stop: str, step: int, config: ConfigDict) -> str:
  kept = "the run is saved" if config.checkpoint.every else "nothing is saved (checkpoint.every=0)"
  return f"Stopped by {stop} after step {step} of {config.steps}; {kept}."
