"""Token classification: a tag for each word, such as the entity that it begins or belongs to.

A word's first piece carries its tag; the others count for nothing. Of several tags with commas
between them ("B-person,B-group", readings of several annotators) the first is the one to learn.

Source: Devlin et al. 2018, arXiv:1810.04805, section 5.3 and figure 4d.

Legend: N records, T position.
"""

import dataclasses

import numpy as np

from llm_jax import objective
from llm_jax.data import labelled, layouts
from llm_jax.errors import UserError

LAYOUTS = ("classifier", "plain")


@dataclasses.dataclass(frozen=True)
class TokenClassification:
  """Cross-entropy of each word's tag.

  Attributes:
    layout: classifier or plain, see `data/layouts`.
    too_long: what becomes of a sentence that seq_len has no room for: "error", or "cut", which
      loses the words at its end.
  """

  layout: str = "classifier"
  too_long: str = "error"

  KINDS = ("decoder", "encoder")
  HEAD = "token_classification"
  FIELDS = ("words", "tags")

  count = staticmethod(objective.count)
  transform = staticmethod(objective.as_stored)

  def __post_init__(self):
    labelled.check_choice("layout", self.layout, LAYOUTS)
    labelled.check_choice("too_long", self.too_long, labelled.TOO_LONG)

  @property
  def SPECIAL_TOKENS(self):  # a constant of the contract that an option changes
    return layouts.special_tokens(self.layout)

  def target_length(self, seq_len: int) -> int:
    return seq_len

  def labels(self, records: list[dict]) -> tuple[str, ...]:
    """The tags, in alphabetical order."""
    found = {tag for record in records for tags in record["tags"] for tag in readings(tags)}
    return tuple(sorted(found))

  def examples(self, records, tokenizer, labels, seq_len) -> dict[str, np.ndarray]:
    """The rows of records.

    Returns:
      tokens, segments (0 = padding) and targets, int32 (N, T); weights, float32 (N, T): 1 at the
      first piece of each word; document_ids, int32 (N,).

    Raises:
      UserError: a sentence empty or too long, as many tags as words are not there, or an unknown
        tag; the message names the record.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    before, _, after = layouts.frame(self.layout, tokenizer.vocabulary)
    sentences = labelled.encode_words(tokenizer, records)
    rows, targets, weights = [], [], []
    for number, (record, words) in enumerate(zip(records, sentences, strict=True), 1):
      if len(record["tags"]) != len(words):
        raise UserError(
          f"Record {number} has {len(words)} words and {len(record['tags'])} tags; expected one "
          "for each."
        )
      own = [labelled.number_of(readings(tag)[0], numbers, number) for tag in record["tags"]]
      tags = [
        tag * (place == 0)
        for tag, word in zip(own, words, strict=True)
        for place in range(len(word))
      ]
      firsts = [int(place == 0) for word in words for place in range(len(word))]
      pieces = [piece for word in words for piece in word]
      room = seq_len - len(before) - len(after)
      [pieces] = labelled.fit([pieces], room, self.too_long, number)
      rows.append(before + pieces + after)
      targets.append([0] * len(before) + tags[: len(pieces)])
      weights.append([0] * len(before) + firsts[: len(pieces)])
    return {
      "tokens": labelled.padded(rows, seq_len),
      "segments": labelled.padded([[1] * len(row) for row in rows], seq_len),
      "targets": labelled.padded(targets, seq_len),
      "weights": labelled.padded(weights, seq_len).astype(np.float32),
      "document_ids": np.arange(len(rows), dtype=np.int32),
    }

  def loss(self, model, params, batch, rngs: dict, train: bool):
    output, collections = self.outputs(model, params, batch, rngs, train)
    return objective.sums(output.heads["token_classification"], collections, batch)

  def outputs(self, model, params, batch, rngs: dict, train: bool):
    """(Output, collections) of the model for a batch."""
    return objective.read(model, params, batch, rngs, train)


def readings(tag: str) -> list[str]:
  """The tags that stand for a word, one or several."""
  return str(tag).split(",")
