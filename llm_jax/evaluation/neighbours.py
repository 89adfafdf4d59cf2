"""What a model's word vectors are close to: the nearest neighbours of words.

Legend: V vocabulary, D width.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm_jax.data.tokenizers import Tokenizer
from llm_jax.errors import UserError
from llm_jax.models.word_vectors import vectors
from llm_jax.training import inputs, runs

_WORDS = 10  # of which neighbours are told if none are asked for
_SHORTEST = 4  # letters of those: the most frequent words have no meaning


def evaluate(
  folder: Path | str, words: Sequence[str] = (), step: str = "latest", count: int = 10
) -> dict:
  """The words nearest to some, of a run of any kind.

  Args:
    folder: a run folder.
    words: as they are written, one piece each of the run's vocabulary; (): the most frequent ones
      of four letters or more.
    step: the checkpoint: a number, "latest" or "best".
    count: of neighbours.

  Returns:
    neighbours: for each word [neighbour, cosine] in order; step.

  Raises:
    UserError: no run, or a word that is no single piece.
  """
  run = runs.read(folder, step)
  pieces = run.tokenizer.vocabulary.pieces
  table_VD = normalised(np.asarray(vectors(run.params), np.float32)[: len(pieces)])
  ids = [piece_of(run.tokenizer, word) for word in words] or _frequent(run)
  found = nearest(table_VD, pieces, ids, count)
  return {
    "neighbours": {
      pieces[index].strip(): [[pieces[i].strip(), round(cosine, 4)] for i, cosine in near]
      for index, near in zip(ids, found, strict=True)
    },
    "step": step,
  }


def nearest(
  table_VD: np.ndarray, pieces: Sequence[str], ids: Sequence[int], count: int
) -> list[list[tuple[int, float]]]:
  """(id, cosine) of the nearest words of each, the nearest first.

  Args:
    table_VD: vectors of length one.
    pieces: the text of each id. Neighbours have a letter, and other letters than the word: whether
      a space comes first, or a capital letter, makes no other word.
    ids: of the words.
    count: of neighbours.
  """
  spelt = [piece.strip().lower() for piece in pieces]
  is_word_V = np.array([any(map(str.isalpha, piece)) for piece in spelt])
  results = []
  for index in ids:
    cosine_V = np.where(is_word_V, table_VD @ table_VD[index], -np.inf)
    found, seen = [], {spelt[index]}
    for other in np.argsort(-cosine_V, kind="stable").tolist():
      if len(found) == count or cosine_V[other] == -np.inf:
        break
      if spelt[other] not in seen:
        seen.add(spelt[other])
        found.append((other, float(cosine_V[other])))
    results.append(found)
  return results


def normalised(table_VD: np.ndarray) -> np.ndarray:
  """Rows of length one; rows of zeros stay."""
  return table_VD / np.maximum(np.linalg.norm(table_VD, axis=1, keepdims=True), 1e-12)


def piece_of(tokenizer: Tokenizer, word: str) -> int:
  """The id of a word inside a text, or of one at its beginning.

  Raises:
    UserError: it is no single piece.
  """
  unknown = set(tokenizer.encode("\ufffd"))
  for text in (f" {word}", word):
    ids = tokenizer.encode(text)
    if len(ids) == 1 and not unknown & set(ids):
      return ids[0]
  raise UserError(
    f"{word!r} is no single piece of the run's vocabulary ({tokenizer.vocab_size} ids), so it has "
    "no vector of its own. Give a more frequent word, or train with a larger vocabulary of words."
  )


def _frequent(run) -> list[int]:
  """The most frequent words of the training text."""
  documents = inputs.load_text(run.config).train_documents
  tokens = np.concatenate(run.tokenizer.encode_documents(documents))
  counts_V = np.bincount(tokens, minlength=run.tokenizer.vocab_size)
  found, seen = [], set()
  for index in np.argsort(-counts_V, kind="stable").tolist():
    word = run.tokenizer.vocabulary.pieces[index].strip()
    if len(found) == _WORDS:
      break
    if counts_V[index] and len(word) >= _SHORTEST and word.isalpha() and word.lower() not in seen:
      seen.add(word.lower())
      found.append(index)
  return found
