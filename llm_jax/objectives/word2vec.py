"""word2vec: each word tells the words around it from random ones (skip-gram, negative sampling).

Source: Mikolov et al. 2013, arXiv:1310.4546, section 2; how far a word looks is drawn for each as
in arXiv:1301.3781, section 3.2; how often frequent words are left out is as in the published code,
(sqrt(f / t) + 1) t / f of them stay, which the paper gives as sqrt(t / f).

Legend: B batch, T position, C words around, K 1 + negatives, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax import objective
from llm_jax.data import pipeline
from llm_jax.data.tokenizers import Vocabulary
from llm_jax.errors import UserError

POWER = 0.75  # random words are drawn by this power of how often they are


@dataclasses.dataclass(frozen=True)
class Word2vec:
  """Skip-gram with negative sampling.

  Attributes:
    window: a word meets up to so many words on either side, each number from 1 on as likely.
    negatives: random words for each that it meets.
    sample: t, the frequency from which on words are left out at times; 0: all stay.
  """

  window: int = 5
  negatives: int = 5
  sample: float = 1e-3

  KINDS = ("word_vectors",)
  HEAD = "context"
  FIELDS = ()
  SPECIAL_TOKENS = ()

  count = staticmethod(objective.count)

  def __post_init__(self):
    if self.window < 1 or self.negatives < 1 or not self.sample >= 0:
      raise UserError(
        "objective_options.window and negatives must be at least 1 and sample 0 or more; found "
        f"{self.window}, {self.negatives} and {self.sample}."
      )

  def target_length(self, seq_len: int) -> int:
    """How many words each word is compared with."""
    return 2 * self.window * (1 + self.negatives)

  def transform(self, row: dict[str, np.ndarray], vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """Makes a stored row into an example.

    Args:
      row: tokens, segments (0 = padding) and document_ids, int, each (T+1,); key, uint32, what is
        drawn from beside the tokens themselves.
      vocabulary: of the tokenizer, with its `counts`; without them all are as frequent.

    Returns:
      tokens, the words that stay, segments and document_ids, int32 (T,); others, int32 (T, C, K):
      each word around, then its negatives; weights, float32 (T, C): 1 where there is a word
      around, of the same document and the same row. Special tokens are no words.
    """
    parts = [
      np.asarray(row[name], np.int32)[:-1] for name in ("tokens", "segments", "document_ids")
    ]
    random, length = pipeline.draws(row), len(parts[0])
    count_V = _counts(vocabulary)
    stays_T = random.random_sample(length) < self._kept(count_V)[parts[0]]
    tokens, segments, ids = (part[stays_T & (parts[1] > 0)] for part in parts)
    offset_C = np.array([*range(-self.window, 0), *range(1, self.window + 1)])
    place_TC = np.arange(len(tokens))[:, None] + offset_C
    inside_TC = (place_TC >= 0) & (place_TC < len(tokens))
    place_TC = np.where(inside_TC, place_TC, 0)
    reach_T = random.randint(1, self.window + 1, size=len(tokens))
    near_TC = np.abs(offset_C) <= reach_T[:, None]
    shape = (length, len(offset_C))
    example = {
      "tokens": np.zeros(length, np.int32),
      "segments": np.zeros(length, np.int32),
      "document_ids": np.full(length, -1, np.int32),
      "others": np.zeros((*shape, 1 + self.negatives), np.int32),
      "weights": np.zeros(shape, np.float32),
    }
    if len(tokens):
      kept = slice(0, len(tokens))
      same_TC = segments[place_TC] == segments[:, None]
      example["tokens"][kept], example["segments"][kept] = tokens, segments
      example["document_ids"][kept] = ids
      example["weights"][kept] = inside_TC & near_TC & same_TC
      example["others"][kept, :, 0] = tokens[place_TC]
      share_V = np.cumsum(count_V**POWER)
      drawn = random.random_sample((len(tokens), shape[1], self.negatives)) * share_V[-1]
      example["others"][kept, :, 1:] = np.searchsorted(share_V, drawn, side="right")
    return example

  def _kept(self, count_V):
    """(V,): how likely a word is to stay; special tokens never do."""
    frequency_V = np.maximum(count_V / max(count_V.sum(), 1.0), 1e-12)
    ratio_V = self.sample / frequency_V if self.sample else np.full(len(count_V), np.inf)
    return np.where(count_V > 0, np.minimum(np.sqrt(ratio_V) + ratio_V, 1.0), 0.0)

  def loss(self, model, params, batch, rngs: dict, train: bool):
    others_BTCK, weights_BTC = batch["others"], batch["weights"]
    others_BTN = others_BTCK.reshape(*others_BTCK.shape[:2], -1)
    read = objective.read(model, params, batch, rngs, train, others_BTN=others_BTN)
    output, collections = read
    scores_BTCK = output.logits.reshape(others_BTCK.shape)
    # A random word that is the very word around says nothing against it.
    other_BTCK = others_BTCK[..., 1:] != others_BTCK[..., :1]
    against_BTCK = jnp.where(other_BTCK, jax.nn.softplus(scores_BTCK[..., 1:]), 0.0)
    loss_BTC = jax.nn.softplus(-scores_BTCK[..., 0]) + jnp.sum(against_BTCK, axis=-1)
    best_BTC = jnp.max(jnp.where(other_BTCK, scores_BTCK[..., 1:], -jnp.inf), axis=-1)
    right_BTC = (scores_BTCK[..., 0] > best_BTC).astype(jnp.float32)
    pairs = objective.count(batch)["tokens"]
    nats, right = jnp.sum(loss_BTC * weights_BTC), jnp.sum(right_BTC * weights_BTC)
    metrics = {"loss": (nats, pairs), "accuracy": (right, pairs)}
    return objective.with_side_losses(nats, metrics, collections, batch)


def _counts(vocabulary: Vocabulary) -> np.ndarray:
  """(V,) float64: how often each word is, 0 for special tokens."""
  known = vocabulary.counts is not None
  count_V = np.array(vocabulary.counts if known else np.ones(vocabulary.size), np.float64)
  count_V[[index for _, index in vocabulary.special]] = 0.0
  return count_V
