"""Synthetic tasks: a model answers what a generator in `data/tasks` asks.

Training examples are drawn anew each time, or once, as a set of a fixed size. Held-out examples are
the same for every run with the same options, as many of each kind, and are scored kind by kind.

Legend: B batch, T position, N rows, V vocabulary, G kinds of held-out examples.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from llm_jax import objective
from llm_jax.data import task as tasks
from llm_jax.data.records import Records
from llm_jax.errors import UserError
from llm_jax.ops.cross_entropy import both_entropies

_PLACES = 4096  # rows of the table of examples that are drawn anew; any number will do
_TRAINING, _HELD_OUT, _FRESH = range(3)  # what is drawn from one seed never repeats another part


@dataclasses.dataclass(frozen=True)
class Synthetic:
  """Cross-entropy of a task's answers.

  Attributes:
    task: its name and options, see `data.task.options`.
    training_set: how many examples there are to train on; 0: every one is new.
    held_out: examples of each kind that are held out.
    held_out_seed: of those; a comparison tunes on one seed and scores on another.
  """

  task: Mapping = dataclasses.field(default=FrozenDict(name="associative_recall"))
  training_set: int = 0
  held_out: int = 128
  held_out_seed: int = 0

  KINDS = ("decoder",)
  FIELDS = ("kind", "number")
  SPECIAL_TOKENS = ()

  count = staticmethod(objective.count)

  def __post_init__(self):
    if self.training_set < 0 or self.held_out < 1:
      raise UserError(
        "objective_options.training_set must be 0 or more and held_out 1 or more, found "
        f"{self.training_set} and {self.held_out}."
      )
    _ = self.made  # refuses what the task refuses

  @functools.cached_property
  def made(self):
    """The task itself."""
    return tasks.make(self.task)

  @property
  def HEAD(self):  # a constant of the contract that a task chooses
    return getattr(self.made, "HEAD", "language_model")

  @property
  def symbols(self) -> tuple[str, ...]:
    """The name of each id: the vocabulary."""
    return self.made.symbols

  @property
  def longest(self) -> int:
    """Tokens of the longest row."""
    return max(self.made.length, self.made.held_out_length)

  def check_model(self, spec) -> None:
    """Refuses a model with fewer positions than an example has tokens."""
    if spec.positions == "learned" and spec.max_length < self.longest:
      raise UserError(
        f"The task's examples have up to {self.longest} tokens, but the model has learned "
        f"positions for model.max_length={spec.max_length}. Raise it, or choose other positions."
      )

  def target_length(self, seq_len: int) -> int:
    return seq_len

  def labels(self, records: list[dict]) -> tuple[str, ...]:
    return ()

  def parts(self) -> tuple[Records, Records]:
    """The training and the held-out examples, by what each is drawn from; `examples` draws them."""
    training = [{"kind": None, "number": i} for i in range(self.training_set or _PLACES)]
    kinds = range(len(self.made.groups))
    # In turn, so that the first few are of all kinds.
    held_out = [{"kind": kind, "number": i} for i in range(self.held_out) for kind in kinds]
    definition = repr((self.made, self.training_set, self.held_out, self.held_out_seed))
    name, sha256 = self.task["name"], hashlib.sha256(definition.encode()).hexdigest()
    return (
      Records(f"{name} (training)", training, sha256),
      Records(f"{name} (held out)", held_out, sha256),
    )

  def examples(self, records, tokenizer, labels, seq_len: int) -> dict[str, np.ndarray]:
    """The rows of what `parts` names.

    Returns:
      tokens, targets and segments (0 = padding), int32 (N, T), weights, float32 (N, T), kind and
      document_ids, int32 (N,). T is the longest training or held-out example's length. Of examples
      that are drawn anew, document_ids alone.

    Raises:
      UserError: seq_len is not the length of the task's training examples.
    """
    if seq_len != self.made.length:
      raise UserError(
        f"The task's training examples have {self.made.length} tokens, found seq_len={seq_len}. "
        f"Set --config.seq_len={self.made.length}, or the task's own sizes."
      )
    training = records[0]["kind"] is None
    numbers = {"document_ids": np.arange(len(records), dtype=np.int32)}
    if training and not self.training_set:
      return numbers
    rows = [self._row(record["kind"], record["number"]) for record in records]
    return numbers | {name: np.stack([row[name] for row in rows]) for name in rows[0]}

  def _row(self, kind: int | None, number: int) -> dict[str, np.ndarray]:
    part = [_TRAINING] if kind is None else [_HELD_OUT, self.held_out_seed, kind]
    return self._drawn([*part, number], kind)

  def _drawn(self, seed: list[int], kind: int | None) -> dict[str, np.ndarray]:
    """One example, padded."""
    # RandomState over PCG64, as `pipeline.draws`: a stream that numpy promises, quick to make.
    random = np.random.RandomState(np.random.PCG64(seed))
    tokens, targets, counted = self.made.draw(random, kind)
    length = self.made.length if kind is None else self.made.held_out_length

    def padded(values, dtype):  # numpy.pad takes 10 times as long
      row = np.zeros(length, dtype)
      row[: len(values)] = values
      return row

    return {
      "tokens": padded(tokens, np.int32),
      "targets": padded(targets, np.int32),
      "weights": padded(counted, np.float32),
      "segments": padded(np.ones(len(tokens)), np.int32),
      "kind": np.int32(-1 if kind is None else kind),
    }

  def transform(self, row: dict[str, np.ndarray], vocabulary=None) -> dict[str, np.ndarray]:
    """The row, drawn where it is not stored."""
    stored = objective.as_stored(row)
    if "tokens" in stored:
      return stored
    return stored | self._drawn([_FRESH, *row["key"].tolist()], None)

  def loss(self, model, params, batch, rngs: dict, train: bool):
    output, collections = objective.read(model, params, batch, rngs, train)
    nats_BT, _, correct_BT = both_entropies(output.heads[self.HEAD], batch["targets"])
    weights_BT = batch["weights"]
    asked_B = jnp.sum(weights_BT, axis=1)
    right_B = jnp.sum(correct_BT * weights_BT, axis=1)
    whole_B = ((right_B == asked_B) & (asked_B > 0)).astype(jnp.float32)
    pairs = {
      "loss": (jnp.sum(nats_BT * weights_BT, axis=1), asked_B),
      "accuracy": (right_B, asked_B),
      "exact": (whole_B, (asked_B > 0).astype(jnp.float32)),
    }
    metrics = {name: tuple(map(jnp.sum, pair)) for name, pair in pairs.items()}
    if not train and len(self.made.groups) > 1:
      for kind, name in enumerate(self.made.groups):
        here_B = batch["kind"] == kind
        found = tuple(jnp.sum(jnp.where(here_B, part_B, 0.0)) for part_B in pairs[self.made.METRIC])
        metrics[f"{self.made.METRIC}/{name}"] = found
    return objective.with_side_losses(metrics["loss"][0], metrics, collections, batch)
