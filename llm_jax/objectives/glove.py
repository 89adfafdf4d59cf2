"""GloVe: products of word vectors are the logarithms of how often words stand near each other.

Source: Pennington et al. 2014, "GloVe: Global Vectors for Word Representation", sections 3 and 4.2.

Legend: B batch, T pair of a row, N rows.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from llm_jax import objective
from llm_jax.data.tokenizers import Tokenizer
from llm_jax.errors import UserError

POWER = 0.75  # of a count below x_max in the weight of its pair


@dataclasses.dataclass(frozen=True)
class Glove:
  """Weighted least squares on co-occurrences.

  Attributes:
    window: words up to so far apart, d, are near each other and count 1 / d.
    x_max: the count from which on all pairs weigh the same.
  """

  window: int = 10
  x_max: float = 100.0

  KINDS = ("word_vectors",)
  HEAD = "context"
  FIELDS = ()
  SPECIAL_TOKENS = ()

  transform = staticmethod(objective.as_stored)

  def __post_init__(self):
    if self.window < 1 or not 0 < self.x_max < float("inf"):
      raise UserError(
        "objective_options.window must be at least 1 and x_max a positive number; found "
        f"{self.window} and {self.x_max}."
      )

  def check_model(self, spec) -> None:
    """Raises UserError for a model without biases."""
    if not spec.head_bias:
      raise UserError("GloVe has a bias for each word: set model.head_bias=True.")

  def target_length(self, seq_len: int) -> int:
    """How many words each word is compared with."""
    return 1

  def examples(self, documents, tokenizer: Tokenizer, labels, seq_len: int):
    """All pairs of words that are near each other somewhere, in rows of `seq_len`, shuffled.

    Returns:
      tokens and segments (0 = padding), int32 (N, T); others, int32 (N, T, 1); log_counts and
      weights, float32 (N, T), the weights 0 at padding; document_ids (N,), all 0.

    Raises:
      UserError: no two words are near each other.
    """
    first, second, count = self.counted(tokenizer.encode_documents(documents), tokenizer.vocabulary)
    if not len(count):
      raise UserError("No two words of the text stand near each other. Give more text.")
    order = np.random.RandomState(0).permutation(len(count))
    rows = -(-len(count) // seq_len)

    def table(values, dtype):
      filled = np.zeros(rows * seq_len, dtype)
      filled[: len(count)] = values[order]
      return filled.reshape(rows, seq_len)

    return {
      "tokens": table(first, np.int32),
      "others": table(second, np.int32)[..., None],
      "segments": table(np.ones(len(count)), np.int32),
      "log_counts": table(np.log(count), np.float32),
      "weights": table(np.minimum(count / self.x_max, 1.0) ** POWER, np.float32),
      "document_ids": np.zeros(rows, np.int32),
    }

  def counted(self, documents, vocabulary) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(word, word near it, count) of all pairs with a count, each pair both ways.

    Args:
      documents: framed token ids.
      vocabulary: of the tokenizer; its special tokens are no words.
    """
    special = [index for _, index in vocabulary.special]
    keys, shares = [], []
    for document in documents:
      words = np.asarray(document[~np.isin(document, special)], np.int64)
      for distance in range(1, min(self.window, len(words) - 1) + 1):
        left, right = words[:-distance], words[distance:]
        keys += [left * vocabulary.size + right, right * vocabulary.size + left]
        shares.append(np.full(2 * len(left), 1.0 / distance))
    if not keys:
      return (np.zeros(0, np.int64),) * 3
    pairs, place = np.unique(np.concatenate(keys), return_inverse=True)
    counts = np.bincount(place, weights=np.concatenate(shares))
    return pairs // vocabulary.size, pairs % vocabulary.size, counts

  def count(self, batch):
    real = jnp.sum(batch["weights"] > 0, dtype=jnp.float32)
    return objective.count(batch) | {"tokens": real}

  def loss(self, model, params, batch, rngs: dict, train: bool):
    others_BT1 = batch["others"]
    read = objective.read(model, params, batch, rngs, train, others_BTN=others_BT1)
    output, collections = read
    error_BT = output.logits[..., 0] - batch["log_counts"]
    loss = jnp.sum(batch["weights"] * error_BT**2)
    metrics = {"loss": (loss, self.count(batch)["tokens"])}
    return objective.with_side_losses(loss, metrics, collections, batch)
