"""The prefix language model: a text's first part is read both ways, the rest predicted.

Nothing of the prefix is predicted, so its tokens may see each other whatever their order, where a
layer allows that (attention); a layer that only looks back reads the prefix as it reads the rest.

Source: Raffel et al. 2020, arXiv:1910.10683, sections 3.2.1 and 3.2.2, which splits each text at a
place drawn evenly.

Legend: T position.
"""

import dataclasses

import numpy as np

from llm_jax import objective
from llm_jax.data import pipeline
from llm_jax.data.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class PrefixLm:
  """The rest of a text, given its beginning."""

  KINDS = ("decoder",)
  HEAD = "language_model"
  FIELDS = ()
  SPECIAL_TOKENS = ()

  count = staticmethod(objective.count)

  def target_length(self, seq_len: int) -> int:
    return seq_len

  def transform(self, row: dict[str, np.ndarray], vocabulary=None) -> dict[str, np.ndarray]:
    """Makes a stored row into an example.

    Args:
      row: tokens, segments (0 = padding) and document_ids, int, each (T+1,); key, uint32, what the
        prefixes are drawn from beside the tokens themselves.
      vocabulary: the tokenizer's, which other objectives read.

    Returns:
      tokens, segments, targets, document_ids, int32 (T,); prefix, bool (T,): of the n tokens that
      the row has of a document the first 1 to n - 1, each number equally likely, are its prefix,
      and all but the last of them are read both ways, as `prompt` is; weights, float32 (T,): 1
      where the target is of the same document and behind its prefix, else 0.
    """
    tokens, segments = (np.asarray(row[name], np.int32) for name in ("tokens", "segments"))
    random = pipeline.draws(row)
    given = np.zeros(len(tokens), bool)
    for segment in np.unique(segments[segments > 0]):
      (here,) = np.nonzero(segments == segment)
      if len(here) > 1:
        given[here[: random.randint(1, len(here))]] = True
    same = (segments[1:] == segments[:-1]) & (segments[1:] > 0)
    prefix = same & given[1:]
    return {
      "tokens": tokens[:-1],
      "segments": segments[:-1],
      "prefix": prefix,
      "targets": tokens[1:],
      "weights": (same & ~prefix).astype(np.float32),
      "document_ids": np.asarray(row["document_ids"], np.int32)[:-1],
    }

  def prompt(self, text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a prefix."""
    return [tokenizer.begin_id, *tokenizer.encode(text)]

  def loss(self, model, params, batch, rngs: dict, train: bool):
    read = objective.read(model, params, batch, rngs, train, prefix=batch["prefix"])
    output, collections = read
    return objective.sums(output.logits, collections, batch)
