"""Masked language modelling: some tokens are hidden or changed, and the original is predicted.

Source: Devlin et al. 2018, arXiv:1810.04805, section 3.1, masked anew in each epoch as by Liu et
al. 2019, arXiv:1907.11692, section 4.1.

Legend: T position, C chosen tokens.
"""

import dataclasses
import functools

import numpy as np

from llm_jax import objective
from llm_jax.data import pipeline
from llm_jax.data.special_tokens import MASK
from llm_jax.data.tokenizers import Vocabulary

CHOSEN = 0.15  # of a row's ordinary tokens
HIDDEN, REPLACED = 0.8, 0.1  # of the chosen: shown as the mask, as a random token; the rest stays


@dataclasses.dataclass(frozen=True)
class MaskedLm:
  """The cloze test."""

  KINDS = ("encoder",)  # one that looks back only cannot use what follows a gap
  HEAD = "masked_lm"
  FIELDS = ()
  SPECIAL_TOKENS = (MASK,)

  count = staticmethod(objective.count)

  def target_length(self, seq_len: int) -> int:
    return seq_len

  def transform(self, row: dict[str, np.ndarray], vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """Makes a stored row into an example.

    Args:
      row: tokens, segments (0 = padding) and document_ids, int, each (T+1,); key, uint32, what the
        choice is drawn from beside the tokens themselves.
      vocabulary: of the tokenizer, with the mask among its special tokens.

    Returns:
      tokens as the model sees them, segments, targets (the original tokens), document_ids, int32
      (T,), and weights, float32 (T,): 1 at chosen tokens, else 0. Special tokens and padding are
      never chosen, and no random token is special.
    """
    targets_T = np.asarray(row["tokens"], np.int32)[:-1]
    segments_T = np.asarray(row["segments"], np.int32)[:-1]
    random = pipeline.draws(row)
    ordinary_V, is_ordinary_V = _ordinary(vocabulary)
    candidates = np.flatnonzero((segments_T > 0) & is_ordinary_V[targets_T])
    # 15 % of each row and not of each token: rows differ less. The fraction left over is drawn, so
    # that short rows have their share too.
    size = int(CHOSEN * len(candidates) + random.random_sample())
    chosen_C = random.permutation(candidates)[:size]
    draw_C = random.random_sample(size)
    shown_C = np.where(draw_C < HIDDEN, vocabulary.id_of(MASK), targets_T[chosen_C])
    other_C = ordinary_V[random.randint(len(ordinary_V), size=size)]
    replaced_C = (draw_C >= HIDDEN) & (draw_C < HIDDEN + REPLACED)
    tokens_T, weights_T = targets_T.copy(), np.zeros(len(targets_T), np.float32)
    tokens_T[chosen_C] = np.where(replaced_C, other_C, shown_C)
    weights_T[chosen_C] = 1.0
    return {
      "tokens": tokens_T,
      "segments": segments_T,
      "targets": targets_T,
      "weights": weights_T,
      "document_ids": np.asarray(row["document_ids"], np.int32)[:-1],
    }

  def loss(self, model, params, batch, rngs: dict, train: bool):
    output, collections = objective.read(model, params, batch, rngs, train)
    return objective.sums(output.logits, collections, batch)


@functools.lru_cache(maxsize=8)
def _ordinary(vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
  """The ids that are no special tokens, and for each id whether it is one of them."""
  is_ordinary_V = np.ones(vocabulary.size, bool)
  is_ordinary_V[[index for _, index in vocabulary.special]] = False
  return np.flatnonzero(is_ordinary_V).astype(np.int32), is_ordinary_V
