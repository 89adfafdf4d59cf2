"""Scores of a run on its synthetic task, beside those of answers that read nothing.

Legend: N examples, T position, V vocabulary, G kinds of examples.
"""

import dataclasses

import jax
import numpy as np

from llm_jax import objective as objectives
from llm_jax.evaluation.labelled import batches


def scores(run, records: list[dict], training: list[dict]) -> dict:
  """How well a run does its task.

  Args:
    run: what `runs.read` gives.
    records: held-out examples, as `Synthetic.parts` names them.
    training: not used: training examples may count other places than held-out ones.

  Returns:
    accuracy of the counted tokens, exact (the share of examples with all of them right) and loss,
    nats each; by_kind: of each kind of example the metric that the task's paper reports, which
    metric names; baseline: what `guessing` makes of other examples of the same kinds. Of a task
    that can tell them, bits that the model knows, most_bits, parameters and bits_per_parameter.
  """
  asked, config = objectives.make(run.config), run.config
  read = lambda asked: asked.examples(records, run.tokenizer, run.labels, config.seq_len)
  rows = read(asked)

  @jax.jit
  def sums(params, batch):
    return asked.loss(run.model, params, batch, {}, train=False)[1]

  params, total = jax.device_put(run.params), {}
  for batch, _ in batches(rows, config.batch_size):
    for name, pair in sums(params, batch).items():
      total[name] = total.get(name, 0.0) + np.array(pair, np.float64)
  metric, kinds = asked.made.METRIC, np.unique(rows["kind"])
  found = {name: _mean(*total[name]) for name in ("accuracy", "exact", "loss")}
  found["metric"] = metric
  found["by_kind"] = {
    name: _mean(*total.get(f"{metric}/{name}", total[metric]))
    for name in (asked.made.groups[kind] for kind in kinds)
  }
  others = read(dataclasses.replace(asked, held_out_seed=asked.held_out_seed + 1))
  found["baseline"] = guessing(rows, others, asked.made)
  if hasattr(asked.made, "bits") and len(kinds) == len(asked.made.groups):
    found["bits"] = asked.made.bits(found["by_kind"])
    found["most_bits"] = asked.made.most_bits
    found["parameters"] = sum(array.size for array in jax.tree.leaves(run.params))
    found["bits_per_parameter"] = found["bits"] / found["parameters"]
  return found


def guessing(rows: dict, others: dict, made) -> dict:
  """Scores of guessing by frequency: the answer most frequent at its place in other examples of its
  kind; where there was none at that place, the kind's. (The place alone can tell much: 0.76 of the
  tokens of a sorted string.) The loss is that of the kind's frequencies, one added to each count.

  Args:
    rows, others: of `Synthetic.examples`: those that are scored, and those that are counted.
    made: the task.

  Returns:
    accuracy, exact, loss and by_kind, as `scores`.
  """
  counts_GV = np.zeros((len(made.groups), len(made.symbols)))
  counted_NT = others["weights"] > 0
  kind_NT = np.broadcast_to(others["kind"][:, None], counted_NT.shape)
  np.add.at(counts_GV, (kind_NT[counted_NT], others["targets"][counted_NT]), 1)
  nats_GV = np.log(np.sum(counts_GV + 1, axis=1, keepdims=True)) - np.log(counts_GV + 1)

  targets_NT, weights_NT, kind_N1 = rows["targets"], rows["weights"], rows["kind"][:, None]
  asked_N = weights_NT.sum(axis=1)
  guess_GT = np.stack([_guess(others, kind, counts_V) for kind, counts_V in enumerate(counts_GV)])
  right_N = ((targets_NT == guess_GT[rows["kind"]]) * weights_NT).sum(axis=1)
  pairs = {
    "accuracy": (right_N, asked_N),
    "exact": (right_N == asked_N, np.ones_like(asked_N)),
    "loss": ((nats_GV[kind_N1, targets_NT] * weights_NT).sum(axis=1), asked_N),
  }
  part_N, count_N = pairs[made.METRIC]
  return {name: _mean(part.sum(), count.sum()) for name, (part, count) in pairs.items()} | {
    "by_kind": {
      made.groups[kind]: _mean(part_N[here_N].sum(), count_N[here_N].sum())
      for kind in np.unique(rows["kind"])
      for here_N in [rows["kind"] == kind]
    }
  }


def _guess(others: dict, kind: int, counts_V: np.ndarray) -> np.ndarray:
  """At each place the answer most frequent there, of equals the one with the highest count."""
  here_N, rest_V = others["kind"] == kind, counts_V / (1 + counts_V.sum())
  columns = zip(others["targets"][here_N].T, others["weights"][here_N].T, strict=True)
  count = lambda targets_N, weights_N: np.bincount(targets_N[weights_N > 0], minlength=len(rest_V))
  return np.array([np.argmax(count(*column) + rest_V) for column in columns])


def _mean(part, count) -> float:
  return float(part / count) if count else 0.0
