"""Scores of runs that find answers in a context, beside those of spans drawn at random.

Legend: N windows, T position.
"""

import numpy as np

from llm_jax import objective as objectives
from llm_jax.data.tokenizers import Tokenizer
from llm_jax.evaluation import labelled
from llm_jax.evaluation import scores as task_scores
from llm_jax.objectives.question_answering import best_span

_DRAWS = 20  # random answers to each question


def scores(run, records: list[dict], training: list[dict] = ()) -> dict:
  """How well a run answers questions.

  Args:
    run: what `runs.read` gives.
    records: with the fields of the run's objective.
    training: not looked at.

  Returns:
    exact_match and f1, as `scores.answers`; baseline: the same of random spans; samples, the first
    three questions with the right answers and the one found.

  Raises:
    UserError: a record that the objective refuses.
  """
  longest = objectives.make(run.config).max_answer_length
  gold = [[text for text, _ in record["answers"]] for record in records]
  made = answers(run, records)
  samples = [
    {"question": record["question"], "answers": right, "found": text}
    for record, right, text in zip(records[:3], gold, made, strict=False)
  ]
  baseline = random_spans(records, gold, run.tokenizer, longest)
  return task_scores.answers(made, gold) | {"baseline": baseline, "samples": samples}


def answers(run, records: list[dict]) -> list[str]:
  """The answer to each question: of all spans of all its windows the likeliest."""
  longest = objectives.make(run.config).max_answer_length
  rows, logits_NT2 = labelled.read_off(run, records, "span")
  best = [(-np.inf, "")] * len(records)
  windows = zip(rows["document_ids"], rows["offsets"], logits_NT2, strict=True)
  for number, offsets_T2, span_T2 in windows:
    allowed_T = offsets_T2[:, 1] > offsets_T2[:, 0]
    score, first, last = best_span(*span_T2.T, allowed_T, longest)
    text = records[number]["context"][offsets_T2[first, 0] : offsets_T2[last, 1]]
    best[number] = max(best[number], (score, text))
  return [text for _, text in best]


def random_spans(
  records: list[dict], gold: list[list[str]], tokenizer: Tokenizer, longest: int
) -> dict[str, float]:
  """The mean scores of spans that begin anywhere in the context, each of up to `longest` tokens
  alike likely."""
  random, made = np.random.RandomState(0), []
  for record in records:
    _, spans_C2 = tokenizer.encode_with_offsets(record["context"])
    first_D = random.randint(len(spans_C2), size=_DRAWS)
    last_D = np.minimum(first_D + random.randint(longest, size=_DRAWS), len(spans_C2) - 1)
    pairs = zip(spans_C2[first_D, 0], spans_C2[last_D, 1], strict=True)
    made.append([record["context"][first:end] for first, end in pairs])
  found = [task_scores.answers([texts[d] for texts in made], gold) for d in range(_DRAWS)]
  return {name: float(np.mean([one[name] for one in found])) for name in found[0]}
