"""Masked language modelling of two segments, and whether the second follows the first in the text.

  [CLS] The cat [MASK] down . [SEP] It [MASK] asleep . [SEP]        they follow each other
  [CLS] The cat [MASK] down . [SEP] Prices [MASK] in May . [SEP]    another document's

Unlike in the paper's code, what is to be predicted and which second part is shown are drawn anew in
each epoch.

Source: Devlin et al. 2018, arXiv:1810.04805, section 3.1 and appendix A.2.

Legend: B batch, T position, N stored passages, P tokens of a passage.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from llm_jax import objective
from llm_jax.data import pipeline
from llm_jax.data.special_tokens import CLASSIFIER, MASK, SEPARATOR
from llm_jax.data.tokenizers import Tokenizer, Vocabulary
from llm_jax.errors import UserError
from llm_jax.objectives.masked_lm import MaskedLm
from llm_jax.ops.cross_entropy import cross_entropy


@dataclasses.dataclass(frozen=True)
class MaskedLmNextSentence(MaskedLm):
  """Both tasks; their losses are added. Options are those of `MaskedLm`."""

  SPECIAL_TOKENS = (MASK, CLASSIFIER, SEPARATOR)

  def check_model(self, spec) -> None:
    """Raises UserError for a model without the second head or without two token types."""
    if "next_sentence" not in spec.heads or spec.token_types < 2:
      raise UserError(
        "Next sentence prediction needs model.heads=('masked_lm', 'next_sentence') and "
        f"model.token_types=2; found {spec.heads} and {spec.token_types}."
      )

  def examples(self, documents, tokenizer: Tokenizer, labels, seq_len: int):
    """Passages, which together are the documents, each with one of another document.

    A document is cut into equal passages of at most seq_len - 3 tokens. One of a single token,
    which has no two parts, is left out.

    Returns:
      tokens, other: int32 (N, P), zeros behind their lengths and other_lengths (N,); document_ids
      (N,).

    Raises:
      UserError: there is one document only, or no place for two tokens.
    """
    room = seq_len - 3  # a classifier and two separators
    if room < 2:
      raise UserError(f"seq_len is {seq_len}; next sentence prediction needs at least 5.")
    passages, ids = [], []
    for number, document in enumerate(tokenizer.encode_documents(documents)):
      text = document[1:-1]
      if len(text) > 1:
        parts = np.array_split(text, -(-len(text) // room))
        passages += parts
        ids += [number] * len(parts)
    ids = np.array(ids, np.int32)
    if len(np.unique(ids)) < 2:
      raise UserError(
        f"Next sentence prediction takes wrong continuations from another document; found "
        f"{len(np.unique(ids))} documents of two tokens or more. Give more text, or hold out more "
        "of it with data.validation_fraction."
      )
    # Which one is drawn once; whether it is shown is drawn each time.
    random = np.random.RandomState(0)
    others = [random.choice(np.flatnonzero(ids != own)) for own in ids]
    tokens, lengths = _table(passages, room)
    return {
      "tokens": tokens,
      "lengths": lengths,
      "other": tokens[others],
      "other_lengths": lengths[others],
      "document_ids": ids,
    }

  def transform(self, row: dict[str, np.ndarray], vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """Makes a stored passage into an example.

    The passage is cut in two at the end of one of its sentences, or anywhere if it is one; in half
    of all cases as many tokens of the other passage, or all it has, stand for the second part.

    Args:
      row: one of `examples`, and key, uint32, what is drawn from beside the tokens themselves.
      vocabulary: of the tokenizer, with the mask, the classifier and the separator.

    Returns:
      tokens as the model sees them, segments, token_types (1: the second part), targets, int32
      (T,); weights, float32 (T,): 1 at tokens to predict; next_sentence, int32: 0 if the second
      part follows the first, else 1; document_ids.
    """
    room, random = len(row["tokens"]), pipeline.draws(row)
    text, other = row["tokens"][: row["lengths"]], row["other"][: row["other_lengths"]]
    found = {name: np.zeros(room + 3, np.int32) for name in ("tokens", "segments", "token_types")}
    wrong = 0
    if len(text):
      ends = np.flatnonzero(vocabulary.ends_sentence(text)[:-1]) + 1
      cut = random.choice(ends if len(ends) else np.arange(1, len(text)))
      wrong = int(random.random_sample() < 0.5)
      first, second = text[:cut], (other[: len(text) - cut] if wrong else text[cut:])
      separator = vocabulary.id_of(SEPARATOR)
      shown = [vocabulary.id_of(CLASSIFIER), *first, separator, *second, separator]
      found["tokens"][: len(shown)] = shown
      found["segments"][: len(shown)] = 1
      found["token_types"][cut + 2 : len(shown)] = 1
    return {
      **found,
      **self.masked(found, vocabulary, random),
      "next_sentence": np.int32(wrong),
      "document_ids": row["document_ids"],
    }

  def loss(self, model, params, batch, rngs: dict, train: bool):
    types_BT = batch["token_types"]
    read = objective.read(model, params, batch, rngs, train, token_types=types_BT)
    output, collections = read
    sums, metrics = objective.sums(output.logits, collections, batch)
    loss_B, correct_B = cross_entropy(output.heads["next_sentence"], batch["next_sentence"])
    real_B = jnp.any(batch["segments"] > 0, axis=1)
    rows = objective.count(batch)["rows"]
    nats, correct = (jnp.sum(jnp.where(real_B, x_B, 0.0)) for x_B in (loss_B, correct_B))
    metrics |= {"next_sentence_loss": (nats, rows), "next_sentence_accuracy": (correct, rows)}
    return sums | {"rows": sums["rows"] + nats}, metrics


def _table(parts, width: int):
  """Rows of unequal lengths as one array, zeros behind them, and their lengths."""
  table, lengths = np.zeros((len(parts), width), np.int32), np.array([len(p) for p in parts])
  for row, part in zip(table, parts, strict=True):
    row[: len(part)] = part
  return table, lengths.astype(np.int32)
