"""How the pieces of a vocabulary are written inside a text, whatever the tokenizer's own marks are.

| tokenizer              | its mark                                  | "playing", inside a text |
| ---------------------- | ----------------------------------------- | ------------------------ |
| byte-level             | a space is U+0120, bytes are characters   | " play", "ing"           |
| sentencepiece          | a space is U+2581                         | " play", "ing"           |
| WordPiece, as of BERT  | what goes on with a word begins with "##" | " play", "ing"           |
| words, characters      | none                                      | as it stands             |

Legend: V vocabulary.
"""

import re

import numpy as np

from llm_jax.data.tokenizer_training import UNKNOWN_CHARACTER, byte_names
from llm_jax.data.world_vocabulary import WorldVocabulary

_SPACE = "\u2581"  # of sentencepiece
_END = re.compile(r"[.!?\u3002\uff01\uff1f]['\")\]\u2019\u201d\s]*$")


def texts(definition, size: int) -> tuple[str, ...]:
  """Each id's text, a space first where it begins a word after one; "" of an id without a piece.

  Bytes that are no whole character are U+FFFD.
  """
  if isinstance(definition, WorldVocabulary):
    return tuple(definition.decode([index]) for index in range(size))
  write = _writer(repr(definition.decoder))
  names = (definition.id_to_token(index) for index in range(size))
  return tuple("" if name is None else write(name) for name in names)


def goes_on(pieces: tuple[str, ...]) -> np.ndarray:
  """(V,) bool: whether a piece begins in the middle of a word if the one before it ends there."""
  return np.array([_is_letter(piece[:1]) for piece in pieces], bool)


def stays_open(pieces: tuple[str, ...]) -> np.ndarray:
  """(V,) bool: whether the piece ends with a letter or digit, so that its word may go on."""
  return np.array([_is_letter(piece[-1:]) for piece in pieces], bool)


def ends_sentence(pieces: tuple[str, ...]) -> np.ndarray:
  """(V,) bool: a full stop, question or exclamation mark, quotes, brackets and space behind it."""
  return np.array([_END.search(piece) is not None for piece in pieces], bool)


def _is_letter(character: str) -> bool:
  return character.isalnum() or character == UNKNOWN_CHARACTER


def _writer(decoder: str):
  if "ByteLevel" in decoder:
    values = byte_names()

    def from_bytes(name):
      known = all(letter in values for letter in name)  # special tokens may hold others
      return bytes(map(values.get, name)).decode("utf-8", "replace") if known else name

    return from_bytes
  if "WordPiece" in decoder:
    return lambda name: name[2:] if name.startswith("##") else " " + name
  if "ByteFallback" in decoder:
    byte = re.compile(r"<0x([0-9A-F]{2})>")

    def with_bytes(name):
      found = byte.fullmatch(name)
      value = bytes([int(found[1], 16)]) if found else b""
      return value.decode("utf-8", "replace") if found else name.replace(_SPACE, " ")

    return with_bytes
  return lambda name: name.replace(_SPACE, " ")
