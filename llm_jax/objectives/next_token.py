"""Next-token prediction: every token of a document is predicted from those before it.

Legend: T position.
"""

import dataclasses

import numpy as np

from llm_jax import objective


@dataclasses.dataclass(frozen=True)
class NextToken:
  """The language model's objective."""

  KINDS = ("decoder",)  # any other would see what it is to predict
  HEAD = "language_model"
  FIELDS = ()
  SPECIAL_TOKENS = ()

  count = staticmethod(objective.count)

  def target_length(self, seq_len: int) -> int:
    return seq_len

  def transform(self, row: dict[str, np.ndarray], vocabulary=None) -> dict[str, np.ndarray]:
    """Makes a stored row into an example.

    Args:
      row: tokens, segments (0 = padding) and document_ids, int, each (T+1,).
      vocabulary: the tokenizer's, which other objectives read.

    Returns:
      tokens, segments, targets, document_ids, int32 (T,), and weights, float32 (T,): 1 where token
      and target are two of one document, else 0.
    """
    segments = np.asarray(row["segments"], np.int32)
    tokens = np.asarray(row["tokens"], np.int32)
    same = (segments[1:] == segments[:-1]) & (segments[1:] > 0)
    return {
      "tokens": tokens[:-1],
      "segments": segments[:-1],
      "targets": tokens[1:],
      "weights": same.astype(np.float32),
      "document_ids": np.asarray(row["document_ids"], np.int32)[:-1],
    }

  def loss(self, model, params, batch, rngs: dict, train: bool):
    output, collections = objective.read(model, params, batch, rngs, train)
    return objective.sums(output.logits, collections, batch)
