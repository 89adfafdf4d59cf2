"""Word vectors of another run as the start of a model's table of tokens, `model.embedding`.

Legend: V vocabulary, D width.
"""

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from llm_jax.data.tokenizers import Tokenizer
from llm_jax.errors import UserError
from llm_jax.models.word_vectors import vectors
from llm_jax.training import runs

_log = logging.getLogger(__name__)


def read(config: ConfigDict, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray] | None:
  """The rows that `config.model.embedding.init_from` has for pieces of this vocabulary.

  Args:
    config: the whole config; the run may be one of word vectors or of any other kind.
    tokenizer: of the new model.

  Returns:
    ids, the pieces that both vocabularies write alike, and their rows, (ids, D) float32; None if
    no run is named.

  Raises:
    UserError: no run there, vectors of another width, no piece in common, or an `init_from` of the
      whole model beside it.
  """
  folder = config.model.get("embedding", {}).get("init_from", "")  # runs of older versions lack it
  if not folder:
    return None
  if config.init_from:
    raise UserError(
      f"init_from={config.init_from} takes the whole model, its table of tokens too; leave it or "
      f"model.embedding.init_from={folder} empty."
    )
  source = runs.read(folder)
  table_VD = np.asarray(vectors(source.params), np.float32)
  if table_VD.shape[1] != config.model.d_model:
    raise UserError(
      f"model.embedding.init_from={folder} has vectors of width {table_VD.shape[1]}, but "
      f"model.d_model is {config.model.d_model}. They must be equal."
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
  size = lambda x: jnp.sqrt(jnp.mean(jnp.square(x)))

  @jax.jit
  def changed(table_VD):
    scaled = rows * (size(table_VD[ids]) / jnp.maximum(size(rows), 1e-12))
    return table_VD.at[ids].set(scaled)

  return {**params, "embed": {**params["embed"], "tokens": changed(params["embed"]["tokens"])}}


def _ordinary(tokenizer: Tokenizer) -> dict[str, int]:
  """The id of each piece by how it is written, without special tokens and those that are bytes."""
  special = {index for _, index in tokenizer.vocabulary.special}
  return {
    piece: index
    for index, piece in enumerate(tokenizer.vocabulary.pieces)
    if piece and index not in special and "\ufffd" not in piece
  }
