"""Masked language modelling: some tokens are hidden or changed, and the original is predicted.

The defaults are the choices of Liu et al.: tokens are chosen anew in each epoch, there is no second
task, and rows are full, of as many documents as it takes (`data.pack`; tokens of two documents do
not see each other here). Those of Devlin et al. are in `masked_lm_next_sentence`.

Sources: Devlin et al. 2018, arXiv:1810.04805, section 3.1; Liu et al. 2019, arXiv:1907.11692,
sections 4.1 and 4.2; of whole words, the code published with the former in 2019.

Legend: T position, C chosen tokens, W words.
"""

import dataclasses
import functools

import numpy as np

from llm_jax import objective
from llm_jax.data import pipeline
from llm_jax.data.special_tokens import MASK
from llm_jax.data.tokenizers import Vocabulary
from llm_jax.errors import UserError

HIDDEN, REPLACED = 0.8, 0.1  # of the chosen: shown as the mask, as a random token; the rest stays


@dataclasses.dataclass(frozen=True)
class MaskedLm:
  """The cloze test.

  Attributes:
    rate: share of a row's ordinary tokens that are chosen.
    whole_words: whether all tokens of a word are chosen together.
  """

  rate: float = 0.15
  whole_words: bool = False

  KINDS = ("encoder",)  # one that looks back only cannot use what follows a gap
  HEAD = "masked_lm"
  FIELDS = ()
  SPECIAL_TOKENS = (MASK,)

  count = staticmethod(objective.count)

  def __post_init__(self):
    if not 0 < self.rate < 1:
      raise UserError(
        f"objective_options.rate is the share of tokens to predict, between 0 and 1; found "
        f"{self.rate}."
      )

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
    example = {
      name: np.asarray(row[name], np.int32)[:-1] for name in ("tokens", "segments", "document_ids")
    }
    return example | self.masked(example, vocabulary, pipeline.draws(row))

  def masked(self, row, vocabulary: Vocabulary, random) -> dict[str, np.ndarray]:
    """tokens, targets and weights of `transform`, of tokens and segments (T,)."""
    targets_T = row["tokens"]
    ordinary_V, is_ordinary_V = _ordinary(vocabulary)
    candidates = np.flatnonzero((row["segments"] > 0) & is_ordinary_V[targets_T])
    chosen_C = candidates[self._chosen(row, candidates, vocabulary, random)]
    draw_C = random.random_sample(len(chosen_C))
    shown_C = np.where(draw_C < HIDDEN, vocabulary.id_of(MASK), targets_T[chosen_C])
    other_C = ordinary_V[random.randint(len(ordinary_V), size=len(chosen_C))]
    replaced_C = (draw_C >= HIDDEN) & (draw_C < HIDDEN + REPLACED)
    tokens_T, weights_T = targets_T.copy(), np.zeros(len(targets_T), np.float32)
    tokens_T[chosen_C] = np.where(replaced_C, other_C, shown_C)
    weights_T[chosen_C] = 1.0
    return {"tokens": tokens_T, "targets": targets_T, "weights": weights_T}

  def _chosen(self, row, candidates, vocabulary, random):
    """Which of the candidates are chosen: those of the first words in an order that is drawn."""
    first = np.ones(len(candidates), bool)
    if self.whole_words:
      border_T = vocabulary.begins_word(row["tokens"])
      border_T[1:] |= row["segments"][1:] != row["segments"][:-1]
      first = border_T[candidates] | (np.diff(candidates, prepend=-2) > 1)
    word = np.cumsum(first) - 1
    # The share of each row and not of each token: rows differ less. Whether the word that exceeds
    # it is chosen is drawn, so that the share is right on average, in short rows too.
    part = random.random_sample()
    order_W = random.permutation(np.sum(first))
    length_W = np.bincount(word, minlength=len(order_W))[order_W]
    after_W = np.cumsum(length_W)
    count = np.sum(length_W[after_W - part * length_W <= self.rate * len(candidates)])
    return np.argsort(np.argsort(order_W)[word], kind="stable")[:count]

  def loss(self, model, params, batch, rngs: dict, train: bool):
    output, collections = objective.read(model, params, batch, rngs, train)
    return objective.sums(output.logits, collections, batch)


@functools.lru_cache(maxsize=8)
def _ordinary(vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
  """The ids that are no special tokens, and for each id whether it is one of them."""
  is_ordinary_V = np.ones(vocabulary.size, bool)
  is_ordinary_V[[index for _, index in vocabulary.special]] = False
  return np.flatnonzero(is_ordinary_V).astype(np.int32), is_ordinary_V
