"""Extractive question answering: where in a context the answer to a question begins and ends.

  <classifier> question <separator> part of the context <separator>

A context longer than a row is read in windows that overlap. In a window that does not hold the
whole answer the right place is the classifier token.

Source: Devlin et al. 2018, arXiv:1810.04805, section 4.2, and its code; data as in Rajpurkar et
al. 2016, arXiv:1606.05250.

Legend: N windows, B batch, T position.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from llm_jax import objective
from llm_jax.data import labelled
from llm_jax.data.special_tokens import CLASSIFIER, SEPARATOR
from llm_jax.data.tokenizers import Tokenizer
from llm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class QuestionAnswering:
  """The begin and the end of an answer.

  Attributes:
    stride: context tokens from the begin of a window to that of the next; 0: half of those that a
      window has room for.
    max_answer_length: tokens of the longest answer that is looked for.
    too_long: what is done with a question that takes more than half of a row: "error", or "cut" at
      its end.
  """

  stride: int = 0
  max_answer_length: int = 30
  too_long: str = "error"

  KINDS = ("encoder",)  # where an answer begins shows in what stands behind it
  HEAD = "span"
  FIELDS = ("question", "context", "answers", "id")
  SPECIAL_TOKENS = (CLASSIFIER, SEPARATOR)

  count = staticmethod(objective.count)
  transform = staticmethod(objective.as_stored)

  def __post_init__(self):
    labelled.check_choice("too_long", self.too_long, labelled.TOO_LONG)
    for name, least in (("stride", 0), ("max_answer_length", 1)):
      if getattr(self, name) < least:
        raise UserError(
          f"objective_options.{name} must be at least {least}, found {getattr(self, name)}."
        )

  def target_length(self, seq_len: int) -> int:
    return seq_len

  def labels(self, records: list[dict]) -> tuple[str, ...]:
    return ()

  def examples(
    self, records: list[dict], tokenizer: Tokenizer, labels, seq_len: int
  ) -> dict[str, np.ndarray]:
    """The windows of all questions.

    Returns:
      tokens, segments, token_types (1 from the context on), int32 (N, T); offsets, int32 (N, T,
      2), the characters of the context where a token begins and ends, 0 outside of it; targets,
      int32 (N, 2), the positions of an answer's first and last token, and their weights, float32
      (N, 2): 1; document_ids, int32 (N,), the question's number.

    Raises:
      UserError: an empty text, an answer that is not where it should be, or a question too long.
    """
    encode = functools.lru_cache(maxsize=None)(tokenizer.encode_with_offsets)
    rows = []
    for number, record in enumerate(records):
      check(record, number + 1)
      question = self._question(record, number + 1, tokenizer, seq_len)
      ids, spans_C2 = encode(record["context"])
      answer = _tokens_of(record, number + 1, spans_C2)
      for first in self._begins(len(ids), seq_len - 3 - len(question)):
        rows.append(_window(tokenizer, seq_len, question, ids, spans_C2, first, answer))
        rows[-1]["document_ids"] = np.int32(number)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

  def _question(self, record, number, tokenizer, seq_len):
    ids, most = tokenizer.encode(record["question"]), (seq_len - 3) // 2
    if most < 1:
      raise UserError(f"seq_len must be at least 5, found {seq_len}: a row holds two texts.")
    if len(ids) > most and self.too_long == "error":
      raise UserError(
        f"{_named(record, number)} has {len(ids)} tokens, more than half of a row ({most}). Raise "
        "--config.seq_len, or set --config.objective_options.too_long=cut."
      )
    return ids[:most]

  def _begins(self, length: int, room: int) -> range:
    """Where in a context of so many tokens windows begin; together they cover it."""
    step = self.stride or -(-room // 2)
    if step > room:
      raise UserError(
        f"objective_options.stride is {step}, but a window has room for {room} tokens of a "
        "context: those between two windows would never be read. Lower it, or raise seq_len."
      )
    return range(0, max(length - room, 0) + step, step) if length > room else range(1)

  def outputs(self, model, params, batch, rngs: dict, train: bool):
    """(Output, collections) of a batch of windows."""
    types = {"token_types": batch["token_types"]} if model.spec.token_types else {}
    return objective.read(model, params, batch, rngs, train, **types)

  def loss(self, model, params, batch, rngs: dict, train: bool):
    output, collections = self.outputs(model, params, batch, rngs, train)
    # Padding has -inf, and a row of nothing else would give NaN for its weight of 0.
    logits_B2T = jnp.maximum(jnp.moveaxis(output.heads["span"], 2, 1), -1e9)
    return objective.sums(logits_B2T, collections, batch)


def check(record: dict, number: int) -> None:
  """Refuses a record that is no question with a context that holds its answers."""
  for field in ("question", "context"):
    if not isinstance(record[field], str) or not record[field].strip():
      raise UserError(
        f"{_named(record, number)} has no {field}: expected a text, found {record[field]!r}."
      )
  if not record["answers"]:
    raise UserError(
      f"{_named(record, number)} has no answer. Expected a list of (text, first character), none "
      "empty; leave out questions that the context does not answer."
    )
  for text, first in record["answers"]:
    found = record["context"][first : first + len(text)] if first >= 0 else ""
    if not text.strip() or found != text:
      raise UserError(
        f"{_named(record, number)} should have its answer {text!r} at character {first} of its "
        f"context; found {found!r} there."
      )


def best_span(
  start_T: np.ndarray, end_T: np.ndarray, allowed_T: np.ndarray, longest: int
) -> tuple[float, int, int]:
  """The likeliest answer of a window.

  Args:
    start_T, end_T: logits, -inf at padding; a softmax over all of them makes windows comparable.
    allowed_T: bool, the tokens of which an answer may consist.
    longest: tokens of an answer at most.

  Returns:
    the sum of both log-probabilities (-inf without an answer), and the first and the last token.
  """
  starts_T, ends_T = (_log_softmax(x_T.astype(np.float64)) for x_T in (start_T, end_T))
  place_T = np.arange(len(start_T))
  length_TT = place_T[None, :] - place_T[:, None] + 1
  valid_TT = (length_TT >= 1) & (length_TT <= longest) & allowed_T[:, None] & allowed_T[None, :]
  score_TT = np.where(valid_TT, starts_T[:, None] + ends_T[None, :], -np.inf)
  first, last = np.unravel_index(score_TT.argmax(), score_TT.shape)
  return float(score_TT[first, last]), int(first), int(last)


def _log_softmax(x_T):
  x_T = x_T - x_T.max()
  return x_T - np.log(np.exp(x_T).sum())


def _tokens_of(record, number, spans_C2) -> tuple[int, int]:
  """The first and the last token of the first answer."""
  text, begin = record["answers"][0]
  end = begin + len(text)
  (touched,) = np.nonzero((spans_C2[:, 1] > begin) & (spans_C2[:, 0] < end))
  if not len(touched):
    raise UserError(
      f"{_named(record, number)} has the answer {text!r}, of which the tokenizer keeps nothing. "
      "Give another tokenizer, or leave the question out."
    )
  return int(touched[0]), int(touched[-1])


def _window(tokenizer, seq_len, question, ids, spans_C2, first, answer) -> dict:
  """The row of a window whose context begins at token `first`."""
  vocabulary = tokenizer.vocabulary
  classifier, separator = (vocabulary.id_of(names) for names in (CLASSIFIER, SEPARATOR))
  begin = len(question) + 2
  part = ids[first : first + seq_len - begin - 1]
  row = [classifier, *question, separator, *part, separator]
  window = {name: np.zeros(seq_len, np.int32) for name in ("tokens", "segments", "token_types")}
  window["tokens"][: len(row)] = row
  window["segments"][: len(row)] = 1
  window["token_types"][begin : len(row)] = 1
  window["offsets"] = np.zeros((seq_len, 2), np.int32)
  window["offsets"][begin : begin + len(part)] = spans_C2[first : first + len(part)]
  whole = first <= answer[0] and answer[1] < first + len(part)
  targets = [place - first + begin for place in answer] if whole else [0, 0]
  window["targets"] = np.array(targets, np.int32)
  window["weights"] = np.ones(2, np.float32)
  return window


def _named(record: dict, number: int) -> str:
  return f"Question {number} (id {record['id']})"
