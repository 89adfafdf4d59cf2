"""Scores of runs that label text, beside those of guessing the most frequent label.

Legend: N records, B batch.
"""

import collections

import jax
import numpy as np

from llm_jax import objective as objectives
from llm_jax.evaluation import scores as task_scores


def scores(run, records: list[dict], training: list[dict]) -> dict:
  """How well a run labels records.

  Args:
    run: what `runs.read` gives.
    records: with the fields of the run's objective.
    training: the records that the run was trained on, for the baseline; [] leaves it out.

  Returns:
    of classification, `scores.classification` (f1 that of the second of two classes) and
    baseline: the same of answering with the most frequent class of the training records.

  Raises:
    UserError: a record that the objective refuses, such as one with an unknown label.
  """
  return _SCORES[run.config.objective](run, records, training)


def _classification(run, records, training):
  logits_NC = read_off(run, records, "classification")[1]
  predicted = [run.labels[best] for best in logits_NC.argmax(axis=1)]
  actual = [str(record["label"]) for record in records]
  found = _classes(run, predicted, actual)
  if training:
    counts = collections.Counter(str(record["label"]) for record in training)
    found["baseline"] = _classes(run, [counts.most_common(1)[0][0]] * len(actual), actual)
  return found


def _classes(run, predicted, actual):
  positive = run.labels[1] if len(run.labels) == 2 and run.labels[1] in actual else None
  return task_scores.classification(predicted, actual, positive)


def read_off(run, records: list[dict], head: str) -> tuple[dict, np.ndarray]:
  """The rows that the run's objective makes of records, and what a head says of each, (N, ...)."""
  asked, size = objectives.make(run.config), run.config.batch_size
  rows = asked.examples(records, run.tokenizer, run.labels, run.config.seq_len)

  @jax.jit
  def outputs(params, batch):
    return asked.outputs(run.model, params, batch, {}, train=False)[0].heads[head]

  params, found = jax.device_put(run.params), []
  for start in range(0, len(rows["document_ids"]), size):
    batch = {name: array[start : start + size] for name, array in rows.items()}
    count = len(batch["document_ids"])
    # To the full size, so that one program serves all.
    whole = {
      name: np.pad(x, [(0, size - count), *[(0, 0)] * (x.ndim - 1)]) for name, x in batch.items()
    }
    found.append(np.asarray(outputs(params, whole))[:count])
  return rows, np.concatenate(found)


_SCORES = {"classification": _classification}
