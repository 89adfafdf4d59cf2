"""Task scores: predictions and references in, a dict of plain numbers out.

Shares, F1 and correlations are fractions of 1 (accuracy 0.78 is 78 %), as everywhere in this
package; BLEU and chrF alone keep the scale of 0 to 100 that their signatures stand for. The
scorers' packages are loaded by the function that needs them.
"""

import collections
import re
import string
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from llm_jax.errors import UserError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TAG = re.compile(r"O|[BI]-.+")


def classification(
  predicted: Sequence[Hashable], actual: Sequence[Hashable], positive: Hashable | None = None
) -> dict[str, float]:
  """Scores one label for each example.

  Args:
    predicted, actual: labels, all strings or all integers.
    positive: the label whose own F1 is `f1`; None: there is no `f1`.

  Returns:
    accuracy; f1_macro, the mean of the F1 of every label that occurs (0 where none was right);
    matthews, Matthews' correlation in [-1, 1], 0 where either side holds one label only; f1.

  Raises:
    UserError: no examples, unequal lengths, or a positive label that does not occur.
  """
  from sklearn import metrics

  _paired(predicted, actual, "labels")
  found = {
    "accuracy": metrics.accuracy_score(actual, predicted),
    "f1_macro": metrics.f1_score(actual, predicted, average="macro", zero_division=0),
    "matthews": 0.0,
  }
  if len(set(predicted)) > 1 and len(set(actual)) > 1:
    found["matthews"] = metrics.matthews_corrcoef(actual, predicted)
  if positive is not None:
    labels = {*predicted, *actual}
    if positive not in labels:
      raise UserError(
        f"The positive label {positive!r} occurs neither among the predictions nor in what is "
        f"right. Found: {', '.join(sorted(map(repr, labels)))}."
      )
    found["f1"] = metrics.f1_score(
      actual, predicted, labels=[positive], average="macro", zero_division=0
    )
  return {name: float(value) for name, value in found.items()}


def entities(predicted: Sequence[Sequence[str]], actual: Sequence[Sequence[str]]) -> dict:
  """Scores whole entities in strict IOB2: type and both ends must be right, and an I- that follows
  no B- of its type is none.

  Args:
    predicted, actual: the tags of each sentence: "O", "B-TYPE", "I-TYPE".

  Returns:
    precision, recall, f1 over all entities; types: the same and `support` (true entities) for each
    type. All are 0 where there are no entities.

  Raises:
    UserError: no sentences, unequal lengths, or a tag of another scheme.
  """
  from seqeval.metrics import classification_report
  from seqeval.scheme import IOB2, Entities

  _paired(predicted, actual, "sentences")
  for index, pair in enumerate(zip(predicted, actual, strict=True)):
    if len(pair[0]) != len(pair[1]):
      raise UserError(
        f"Sentence {index} has {len(pair[1])} tags, but {len(pair[0])} were predicted for it."
      )
    for tag in (tag for tags in pair for tag in tags):
      if not _TAG.fullmatch(tag):
        raise UserError(f"Sentence {index} has the tag {tag!r}; expected O, B-TYPE or I-TYPE.")
  sides = [[list(tags) for tags in side] for side in (actual, predicted)]
  if not any(sentence for side in sides for sentence in Entities(side, IOB2).entities):
    return {"precision": 0.0, "recall": 0.0, "f1": 0.0, "types": {}}
  report = classification_report(
    *sides, mode="strict", scheme=IOB2, output_dict=True, zero_division=0
  )

  def row(name):
    values = (float(report[name][key]) for key in ("precision", "recall", "f1-score"))
    return dict(zip(("precision", "recall", "f1"), values, strict=True))

  names = [name for name in report if not name.endswith(" avg")]
  types = {name: row(name) | {"support": int(report[name]["support"])} for name in names}
  return row("micro avg") | {"types": types}


def answers(predicted: Sequence[str], gold: Sequence[Sequence[str]]) -> dict[str, float]:
  """Scores short answers; of several right ones, the one that fits best counts.

  Case, punctuation, English articles and white space do not count. F1 is that of the words two
  answers share.

  Args:
    predicted: one answer a question.
    gold: the right answers of each question, at least one.

  Returns:
    exact_match, f1: means over the questions.

  Raises:
    UserError: no questions, unequal lengths, or a question without a right answer.

  Source: Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1 (SQuAD v1.1).
  """
  _paired(predicted, gold, "answers")
  exact, f1 = 0.0, 0.0
  for index, (text, right) in enumerate(zip(predicted, gold, strict=True)):
    right = _several(right, index)
    exact += max(normal_form(text) == normal_form(other) for other in right)
    f1 += max(_word_f1(text, other) for other in right)
  return {"exact_match": exact / len(predicted), "f1": f1 / len(predicted)}


def normal_form(text: str) -> str:
  """A text as SQuAD compares it: lower case, no punctuation, no articles, single spaces."""
  return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _word_f1(predicted, gold):
  words = [normal_form(text).split() for text in (predicted, gold)]
  shared = (collections.Counter(words[0]) & collections.Counter(words[1])).total()
  return 2 * shared / (len(words[0]) + len(words[1])) if shared else 0.0


def translation(predicted: Sequence[str], references: Sequence[str | Sequence[str]]) -> dict:
  """BLEU and chrF of the whole corpus, as sacrebleu defines them.

  Args:
    predicted: one text a source, detokenised.
    references: one text or several for each.

  Returns:
    bleu, chrf: 0 to 100; bleu_signature, chrf_signature: which BLEU and chrF they are.

  Raises:
    UserError: no texts, unequal lengths, or a source without a reference.

  Source: Post 2018, arXiv:1804.08771.
  """
  from sacrebleu.metrics import BLEU, CHRF

  _paired(predicted, references, "translations")
  right = [_several(texts, index) for index, texts in enumerate(references)]
  # sacrebleu wants one stream for the first references, one for the second, and None for gaps.
  streams = [
    [texts[k] if k < len(texts) else None for texts in right] for k in range(max(map(len, right)))
  ]
  found = {}
  for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
    found[name] = float(metric.corpus_score(list(predicted), streams).score)
    found[f"{name}_signature"] = str(metric.get_signature())
  return found


def summaries(
  predicted: Sequence[str], references: Sequence[str | Sequence[str]]
) -> dict[str, float]:
  """ROUGE as rouge-score computes it, words stemmed: mean F-measures over the texts.

  Args:
    predicted: one text each; rougeLsum takes lines for sentences.
    references: one text or several for each, of which the one that fits best counts.

  Returns:
    rouge1, rouge2, rougeL, rougeLsum.

  Raises:
    UserError: no texts, unequal lengths, or a text without a reference.

  Source: Lin 2004, ROUGE: a package for automatic evaluation of summaries.
  """
  from rouge_score.rouge_scorer import RougeScorer

  _paired(predicted, references, "summaries")
  names = ("rouge1", "rouge2", "rougeL", "rougeLsum")
  scorer = RougeScorer(names, use_stemmer=True)
  rows = [
    scorer.score_multi(_several(right, index), text)
    for index, (text, right) in enumerate(zip(predicted, references, strict=True))
  ]
  return {name: float(np.mean([row[name].fmeasure for row in rows])) for name in names}


def similarity(vectors_a, vectors_b, gold: Sequence[float]) -> dict[str, float]:
  """How well the cosines of pairs of vectors follow judgements of the pairs.

  Args:
    vectors_a, vectors_b: (pairs, size); a vector of zeros has cosine 0 with every other.
    gold: one judgement a pair, on any scale.

  Returns:
    pearson, spearman: correlation of cosine and judgement; cosine: the mean of the cosines.

  Raises:
    UserError: shapes that do not fit, fewer than two pairs, values that are not finite, or
      cosines or judgements that are all equal: no correlation is defined.
  """
  from scipy import stats

  a, b, gold = (np.asarray(x, np.float64) for x in (vectors_a, vectors_b, gold))
  if a.ndim != 2 or a.shape != b.shape or gold.shape != a.shape[:1]:
    raise UserError(
      "Expected two arrays (pairs, size) of one shape and as many judgements; found "
      f"{a.shape}, {b.shape} and {gold.shape}."
    )
  if not all(np.isfinite(x).all() for x in (a, b, gold)):
    raise UserError("The vectors or judgements hold values that are not finite.")
  lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
  cosine = np.einsum("pd,pd->p", a, b) / np.where(lengths == 0, 1.0, lengths)
  if len(gold) < 2 or np.ptp(cosine) < 1e-12 or np.ptp(gold) == 0:
    raise UserError(
      f"No correlation is defined for these {len(gold)} pairs: there must be two or more, and "
      "neither their cosines nor their judgements may all be equal."
    )
  return {
    "pearson": float(stats.pearsonr(cosine, gold).statistic),
    "spearman": float(stats.spearmanr(cosine, gold).statistic),
    "cosine": float(np.mean(cosine)),
  }


# What `--metrics` of a generation task may name: the function, and which of its values.
METRICS: Mapping[str, tuple] = {
  "exact_match": (answers, ("exact_match",)),
  "f1": (answers, ("f1",)),
  "bleu": (translation, ("bleu", "bleu_signature")),
  "chrf": (translation, ("chrf", "chrf_signature")),
  "rouge": (summaries, ("rouge1", "rouge2", "rougeL", "rougeLsum")),
}


def _paired(predicted, actual, what):
  if not len(predicted) or len(predicted) != len(actual):
    raise UserError(
      f"Expected as many predictions as {what} to compare them with, and at least one; found "
      f"{len(predicted)} and {len(actual)}."
    )


def _several(references, index) -> list[str]:
  references = [references] if isinstance(references, str) else list(references)
  if not references:
    raise UserError(f"Example {index} has no reference to be compared with.")
  return references
