"""Word vectors of another run as the start of a model's table of tokens, `model.embedding`.

Legend: V vocabulary, D width.
"""

import logging
from pathlib import Path

import numpy as np

from llm_jax.data.tokenizers import Tokenizer
from llm_jax.errors import UserError
from llm_jax.models.word_vectors import vectors
from llm_jax.training import runs

_log = logging.getLogger(__name__)


def read(folder: str, tokenizer: Tokenizer, d_model: int) -> tuple[np.ndarray, np.ndarray]:
  """The rows that a run has for pieces of this vocabulary.

  Args:
    folder: a run folder, of word vectors or of any other kind.
    tokenizer: of the new model.
    d_model: its width.

  Returns:
    ids, the pieces that both vocabularies write alike, and their rows, (ids, D) float32.

  Raises:
    UserError: no run there, vectors of another width, or no piece in common.
  """
  source = runs.read(folder)
  table_VD = np.asarray(vectors(source.params), np.float32)
  if table_VD.shape[1] != d_model:
    raise UserError(
      f"model.embedding.init_from={folder} has vectors of width {table_VD.shape[1]}, but "
      f"model.d_model is {d_model}. They must be equal."
    )
  theirs = _ordinary(source.tokenizer)
  shared = [(i, theirs[piece]) for piece, i in _ordinary(tokenizer).items() if piece in theirs]
  if not shared:
    raise UserError(
      f"No piece of model.embedding.init_from={folder} ({len(theirs)} pieces) is one of this run's "
      f"vocabulary ({tokenizer.vocab_size}). Give vectors of like pieces, or another tokenizer."
    )
  ids, rows = np.array(shared).T
  _log.info(
    "embedding: %d of %d rows are those of %s, the others fresh",
    *(len(ids), tokenizer.vocab_size, Path(folder)),
  )
  return ids, table_VD[rows]


def put(ids, rows, params: dict) -> dict:
  """Parameters with rows in their places of the table of tokens.

  One factor makes the rows as long as the fresh ones are on average: the scale of word vectors is
  that of their own loss, and a model's layers are made for its table's.
  """
  table_VD = np.array(params["embed"]["tokens"])
  size = lambda x: np.sqrt(np.mean(np.square(x, dtype=np.float64)))
  table_VD[ids] = rows * (size(table_VD[ids]) / max(size(rows), 1e-12))
  return {**params, "embed": {**params["embed"], "tokens": table_VD}}


def _ordinary(tokenizer: Tokenizer) -> dict[str, int]:
  """The id of each piece by how it is written, without special tokens and those that are bytes."""
  special = {index for _, index in tokenizer.vocabulary.special}
  return {
    piece: index
    for index, piece in enumerate(tokenizer.vocabulary.pieces)
    if piece and index not in special and "\ufffd" not in piece
  }
