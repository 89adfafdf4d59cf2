"""Scores of runs that label text, beside those of guessing the most frequent label.

Legend: N records, B batch, T position, W words, C classes.
"""

import collections
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from llm_jax import objective as objectives
from llm_jax.evaluation import scores as task_scores
from llm_jax.objectives.token_classification import readings


def scores(run, records: list[dict], training: list[dict]) -> dict:
  """How well a run labels records.

  Args:
    run: what `runs.read` gives.
    records: with the fields of the run's objective.
    training: the records that the run was trained on, for the baseline; [] leaves it out.

  Returns:
    of classification, `scores.classification` (f1 that of the second of two classes) and
    baseline: the same of answering with the most frequent class of the training records. Of
    token_classification, `scores.entities` of the likeliest tags that are IOB2, the accuracy of
    words, and baseline: each word's most frequent tag in the training records, "O" if it is new.
    Of several tags in a record ("B-person,B-group") each is right. Of contrastive, accuracy: how
    often a text's partner is the nearest of the partners of all records; and where records have a
    "score", `scores.similarity` of the cosines of pairs with it.

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


def _tokens(run, records, training):
  rows, logits_NTC = read_off(run, records, "token_classification")
  predicted = []
  for record, weights_T, logits_TC in zip(records, rows["weights"], logits_NTC, strict=True):
    tags = likeliest(logits_TC[weights_T > 0], run.labels)
    predicted.append(tags + ["O"] * (len(record["words"]) - len(tags)))  # of words cut off
  found = _entities(predicted, records)
  if training:
    counts = collections.defaultdict(collections.Counter)
    for record in training:
      for word, tag in zip(record["words"], record["tags"], strict=True):
        counts[word][readings(tag)[0]] += 1
    most = {word: counter.most_common(1)[0][0] for word, counter in counts.items()}
    guessed = [[most.get(word, "O") for word in record["words"]] for record in records]
    found["baseline"] = _entities(guessed, records)
  return found


def _embeddings(run, records, training):
  rows, vectors = read_off(run, records, "embedding")
  vectors_N2D = vectors.reshape(-1, 2, vectors.shape[-1])[rows["weights"].ravel() > 0]
  order_N = rows["document_ids"][rows["weights"] > 0]
  nearest_N = (vectors_N2D[:, 0] @ vectors_N2D[:, 1].T).argmax(axis=1)
  found = {"accuracy": float(np.mean(nearest_N == np.arange(len(order_N))))}
  if all("score" in record for record in records):
    gold = [float(records[i]["score"]) for i in order_N]
    found |= task_scores.similarity(vectors_N2D[:, 0], vectors_N2D[:, 1], gold)
  return found


def _entities(predicted, records):
  actual, right = [], []
  for guesses, record in zip(predicted, records, strict=True):
    pairs = [(guess, readings(tag)) for guess, tag in zip(guesses, record["tags"], strict=True)]
    actual.append([guess if guess in tags else tags[0] for guess, tags in pairs])
    right += [guess in tags for guess, tags in pairs]
  return task_scores.entities(predicted, actual) | {"accuracy": sum(right) / len(right)}


def likeliest(logits_WC: np.ndarray, labels: Sequence[str]) -> list[str]:
  """The tags of a sentence with the largest sum of logits in which an I- only follows its kind.

  Where no label begins with I- that is the best of each word. Found as by Viterbi 1967,
  doi:10.1109/TIT.1967.1054010.
  """
  inside = [label.startswith("I-") for label in labels]
  allowed_CC = np.array(  # from, to
    [[not i or a[1:] == b[1:] for b, i in zip(labels, inside, strict=True)] for a in labels]
  )
  best_C, came_from = np.where(inside, -np.inf, logits_WC[:1])[0], []
  for logits_C in logits_WC[1:]:
    reached_CC = np.where(allowed_CC, best_C[:, None], -np.inf)
    came_from.append(reached_CC.argmax(axis=0))
    best_C = reached_CC.max(axis=0) + logits_C
  path = [int(best_C.argmax())]
  for before_C in reversed(came_from):
    path.append(int(before_C[path[-1]]))
  return [labels[c] for c in reversed(path)]


def read_off(run, records: list[dict], head: str) -> tuple[dict, np.ndarray]:
  """The rows that the run's objective makes of records, and what a head says of each text."""
  asked, size = objectives.make(run.config), run.config.batch_size
  rows = asked.examples(records, run.tokenizer, run.labels, run.config.seq_len)

  @jax.jit
  def outputs(params, batch):
    return asked.outputs(run.model, params, batch, {}, train=False)[0].heads[head]

  params, found = jax.device_put(run.params), []
  for batch, count in batches(rows, size):
    made = np.asarray(outputs(params, batch))  # a row may hold several texts
    found.append(made[: count * (len(made) // size)])
  return rows, np.concatenate(found)


def batches(rows: dict, size: int) -> Iterator[tuple[dict, int]]:
  """(batch, how many of its rows are real): the last is filled with zeros, so that one program
  serves all."""
  for start in range(0, len(rows["document_ids"]), size):
    batch = {name: array[start : start + size] for name, array in rows.items()}
    count = len(batch["document_ids"])
    yield (
      {name: np.pad(x, [(0, size - count), *[(0, 0)] * (x.ndim - 1)]) for name, x in batch.items()},
      count,
    )


_SCORES = {
  "classification": _classification,
  "token_classification": _tokens,
  "contrastive": _embeddings,
}
