"""What the terminal shows of a running sweep: a live table, or a line now and then elsewhere."""

import time

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table

from llm_jax.analysis.workers import last_row
from llm_jax.sweeps import outcome
from llm_jax.sweeps.study import values_of
from llm_jax.sweeps.sweep import Sweep
from llm_jax.training import early_stopping

_SECONDS_BETWEEN_LINES = 15.0  # where there is no terminal to draw on
_ELSE = 8  # lines of a terminal that are no trials


class Display:
  """Use as a context manager; `update` draws.

  Args:
    sweep: whose trials are shown.
    shown: False: nothing is.
  """

  def __init__(self, sweep: Sweep, shown: bool):
    self._sweep = sweep
    self._console = Console(stderr=True, quiet=not shown)
    self._live = Live(console=self._console, auto_refresh=False, transient=True)
    self._told = -_SECONDS_BETWEEN_LINES
    self._metric = sweep.study.plan.metric
    self._lower = early_stopping.lower_is_better(self._metric)
    self._names = _short_names(sweep.study.plan.space.keys)

  def __enter__(self):
    if self._console.is_terminal:
      self._live.start()
    return self

  def __exit__(self, *_):
    self._live.stop()

  def update(self, workers: int) -> None:
    """Shows how the trials stand, and how many workers there are."""
    late = time.monotonic() - self._told > _SECONDS_BETWEEN_LINES
    if self._console.quiet or not (self._console.is_terminal or late):
      return
    self._told = time.monotonic()
    trials = self._sweep.study.trials()
    line = self._line(trials, workers)
    if self._console.is_terminal:
      self._live.update(self._table(trials, line), refresh=True)
    else:
      self._console.print(line, soft_wrap=True, highlight=False)

  def _line(self, trials, workers):
    states = [outcome.STATES[trial.state] for trial in trials]
    over = [s for s in ("complete", "pruned", "failed") if s in states]
    parts = [f"{states.count(state)} {state}" for state in over] or ["none over yet"]
    line = f"{len(trials)} trials: {', '.join(parts)}; {workers} at work"
    if found := outcome.best(trials, self._lower):
      setting = ", ".join(f"{self._names[k]}={_short(v)}" for k, v in values_of(found).items())
      line += f"; best {self._metric} {found.value:.5g}, trial {found.number} ({setting})"
    return line

  def _table(self, trials, line):
    """Those that run, then the best of the others, as many as there is room for."""
    table = Table(box=SIMPLE, title=line, title_justify="left", title_style="")
    for name in ("trial", "state", "step", self._metric, *self._names.values()):
      table.add_column(name, justify="left" if name == "state" else "right")
    running = [t for t in trials if outcome.STATES[t.state] == "running"]
    over = [t for t in trials if t.state.is_finished()]
    sign = 1 if self._lower else -1
    over.sort(key=lambda t: sign * s if (s := outcome.score(t)) is not None else float("inf"))
    for trial in [*running, *over][: max(1, self._console.height - _ELSE)]:
      reached, step, values = outcome.score(trial), "", values_of(trial)
      path = self._sweep.run_folder(trial.number) / "metrics.jsonl"
      if trial in running and path.exists():
        step = str(last_row(path).get("step", ""))
      table.add_row(
        *(str(trial.number), outcome.STATES[trial.state], step),
        "" if reached is None else f"{reached:.5g}",
        *(_short(values[key]) if key in values else "" for key in self._names),
      )
    return table


def _short_names(keys: tuple[str, ...]) -> dict[str, str]:
  """The last part of each key, where it is the only one with that."""
  last = [key.rpartition(".")[2] for key in keys]
  return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def _short(value):
  return f"{value:.4g}" if isinstance(value, float) else str(value)
