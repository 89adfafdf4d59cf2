"""Tokenizers: text to token ids and back, whether trained here or published."""

import dataclasses
import functools
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers

from llm_jax.data import cache, pieces, special_tokens, tokenizer_files, tokenizer_training
from llm_jax.data.tokenizer_files import SETTINGS
from llm_jax.data.tokenizer_training import KINDS, UNKNOWN_CHARACTER
from llm_jax.data.world_vocabulary import WorldVocabulary
from llm_jax.errors import UserError, unknown

__all__ = [
  "KINDS",
  "SETTINGS",
  "UNKNOWN_CHARACTER",
  "Stream",
  "Tokenizer",
  "Vocabulary",
  "get",
  "load",
  "of_symbols",
]

END = special_tokens.END[0]
_GAPS = frozenset(itertools.chain(special_tokens.MASK, *special_tokens.SENTINELS))


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """What an objective is told of the token ids.

  Attributes:
    size: all ids are below it.
    special: (name, id) of the tokens that stand for no text.
    end_id: the one after each document.
    begin_id: the one before each document, often the same.
    pieces: what each id is inside a text, see `pieces.texts`; () if nobody knows.
    counts: (size,), how often each id stands in the training text; None where none was read.
  """

  size: int
  special: tuple[tuple[str, int], ...] = ()
  end_id: int = 0
  begin_id: int = 0
  pieces: tuple[str, ...] = dataclasses.field(default=(), repr=False, compare=False)
  counts: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)

  @classmethod
  def numbered(cls, size: int, special: Sequence[Sequence[str]]) -> "Vocabulary":
    """One without a tokenizer: the last ids are the special tokens, as `Tokenizer.extended`."""
    named = tuple((names[0], size - 1 - i) for i, names in enumerate(special))
    return cls(size, named, pieces=tuple(f" {index}" for index in range(size)))

  def id_of(self, names: Sequence[str]) -> int:
    """The id of the first of these names of one special token that the vocabulary has.

    Raises:
      UserError: it has none of them.
    """
    for name in names:
      if name in self._ids:
        return self._ids[name]
    raise UserError(
      f"The tokenizer has no special token {' or '.join(map(repr, names))}, which the objective "
      "needs. Give a tokenizer that has it, or another objective."
    )

  def begins_word(self, tokens_T: np.ndarray) -> np.ndarray:
    """(T,) bool: whether a token does not go on with the word of the token before it. A word is a
    run of letters and digits; anything else is one for itself."""
    goes_on_V, stays_open_V, _ = self._written
    inside_T = goes_on_V[tokens_T]
    inside_T[1:] &= stays_open_V[tokens_T[:-1]]
    inside_T[:1] = False
    return ~inside_T

  def ends_sentence(self, tokens_T: np.ndarray) -> np.ndarray:
    """(T,) bool: whether a sentence ends with the token, see `pieces.ends_sentence`."""
    return self._written[2][tokens_T]

  @functools.cached_property
  def _written(self):
    if not self.pieces:
      raise UserError(
        "The objective reads words or sentences, but of this vocabulary only the ids are known. "
        "Give a tokenizer, or an objective that needs no more than ids."
      )
    return tuple(
      found(self.pieces) for found in (pieces.goes_on, pieces.stays_open, pieces.ends_sentence)
    )

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return dict(self.special)


class Tokenizer:
  """Text to token ids and back.

  Attributes:
    vocab_size: number of ids, the end token's included.
    end_id: the token after each document. No text encodes to it: where a text holds its name, that
      is read as ordinary characters.
    begin_id: the token before each document; of tokenizers trained here it is the end token.
    pad_id: the token that fills rows; None where nothing names one.
    settings: {file name: content} of the published `SETTINGS`.
    sha256: hash of the whole definition; equal for a tokenizer and its saved copy.
  """

  def __init__(
    self,
    definition: tokenizers.Tokenizer | WorldVocabulary,
    end: str = END,
    begin: str | None = None,
    settings: dict[str, str] | None = None,
  ):
    """Takes a definition of the `tokenizers` package, or one that can be asked the same.

    Args:
      definition: it is changed.
      end: joins the vocabulary if it is new.
      begin: as `end`; None: the end token.
      settings: published files that go with it.
    """
    self._inner, self.settings = definition, settings or {}
    begin = begin or end
    # A known token is only marked as special by this, a new one gets the next id.
    self._inner.add_special_tokens(list(dict.fromkeys([end, begin])))
    self._inner.no_padding()
    self._inner.no_truncation()
    # With a begin token that is only named beside the definition: it changes every row.
    identity = self._inner.to_str() + (begin if begin != end else "")
    self.sha256 = hashlib.sha256(identity.encode()).hexdigest()
    self._inner.encode_special_tokens = True  # special names in a text are ordinary characters
    self._bytes = _byte_tokens(self._inner)
    self.end_id, self.begin_id = map(self._inner.token_to_id, (end, begin))
    pad = tokenizer_files.named(self._inner, self.settings).get("pad_token")
    self.pad_id = None if pad is None else self._inner.token_to_id(pad)
    # Ids may have holes (a published file's added tokens), and a table must reach the last one.
    self.vocab_size = max(self._inner.get_vocab(with_added_tokens=True).values()) + 1

  @functools.cached_property
  def vocabulary(self) -> Vocabulary:
    """What an objective is told of the ids."""
    added = self._inner.get_added_tokens_decoder().items()
    special = tuple((token.content, index) for index, token in added if token.special)
    written = pieces.texts(self._inner, self.vocab_size)
    return Vocabulary(self.vocab_size, special, self.end_id, self.begin_id, written)

  def extended(self, special: Sequence[Sequence[str]]) -> "Tokenizer":
    """This tokenizer with more special tokens.

    Args:
      special: for each token the names it may have. A name in the vocabulary is marked as
        special; where there is none of them, the first gets the next id.
    """
    if not special:
      return self
    known = self._inner.get_vocab(with_added_tokens=True)
    names = [next((name for name in names if name in known), names[0]) for names in special]
    definition = type(self._inner).from_str(self._inner.to_str())
    definition.add_special_tokens(names)
    end, begin = map(self._inner.id_to_token, (self.end_id, self.begin_id))
    return Tokenizer(definition, end, begin, self.settings)

  def encode(self, text: str) -> list[int]:
    """The ids of a text, without the tokens before and after it."""
    return self._inner.encode(text, add_special_tokens=False).ids

  def encode_with_gaps(self, text: str) -> list[int]:
    """`encode`, but that masks and sentinels which the text has by their names are these tokens.

    Spaces before them are dropped: they stand for words, and a word's space is a part of it.
    """
    added = self._inner.get_added_tokens_decoder().items()
    gaps = {t.content: index for index, t in added if t.special and t.content in _GAPS}
    if not gaps:
      return self.encode(text)
    *parts, last = re.split(f"({'|'.join(map(re.escape, gaps))})", text)
    ids = []
    for before, gap in zip(parts[::2], parts[1::2], strict=True):
      ids += [*self.encode(before.rstrip(" ")), gaps[gap]]
    return ids + self.encode(last)

  def encode_with_offsets(self, text: str) -> tuple[list[int], np.ndarray]:
    """The ids of a text, and where in it each stands: characters, int32 (N, 2), first and end.

    White space at the ends of a piece does not count; of a piece of nothing else first is end.

    Raises:
      UserError: the vocabulary does not say where its pieces stand.
    """
    if isinstance(self._inner, WorldVocabulary):
      raise UserError(
        "This tokenizer does not say where in a text its pieces stand. Give one of another kind."
      )
    encoding = self._inner.encode(text, add_special_tokens=False)
    spans = []
    for first, end in encoding.offsets:
      piece = text[first:end]
      first += len(piece) - len(piece.lstrip())
      spans.append((min(first, end), max(first, end - len(piece) + len(piece.rstrip()))))
    return encoding.ids, np.array(spans, np.int32).reshape(-1, 2)

  def encode_documents(self, documents: list[str]) -> list[np.ndarray]:
    """The ids of many texts, each an int32 array framed as the pipeline wants documents:
    [begin_id, ids..., end_id]."""
    found = []
    # In slices: the package's encodings carry offsets, fifty bytes and more for each token.
    for start in range(0, len(documents), 1024):
      batch = self._inner.encode_batch_fast(
        documents[start : start + 1024], add_special_tokens=False
      )
      found += [self._frame(encoding.ids) for encoding in batch]
    return found

  def _frame(self, ids: list[int]) -> np.ndarray:
    framed = np.full(len(ids) + 2, self.end_id, np.int32)
    framed[0], framed[1:-1] = self.begin_id, ids
    return framed

  def decode(self, ids: Iterable[int], special: bool = False, after: Sequence[int] = ()) -> str:
    """The text of some ids; bytes that are not UTF-8 become U+FFFD.

    Args:
      ids: special tokens among them are no text.
      special: whether to show them by their names, but for those around a text.
      after: the ids of the text that they go on with: some vocabularies drop the space before the
        first word of all.
    """
    if after:
      before = self.decode(after, special)
      return self.decode([*after, *ids], special)[len(before) :]
    ids = [int(token) for token in ids]
    if special:
      ids = [token for token in ids if token not in (self.begin_id, self.end_id, self.pad_id)]
    if self._bytes:
      return self._decode_with_bytes(ids, special)
    return self._inner.decode(ids, skip_special_tokens=not special)

  def _decode_with_bytes(self, ids: list[int], special: bool) -> str:
    """Where some tokens stand for a byte each: the package gives up a whole run of them, good
    characters included, if its last one is not complete."""
    hidden = set() if special else {index for _, index in self.vocabulary.special}
    kept, parts = (token for token in ids if token not in hidden), []
    for is_byte, run in itertools.groupby(kept, self._bytes.__contains__):
      if is_byte:
        parts.append(bytes(map(self._bytes.get, run)).decode("utf-8", errors="replace"))
      else:
        parts += [name for name in map(self._inner.id_to_token, run) if name is not None]
    return self._inner.decoder.decode(parts)

  def stream(self, special: bool = False, after: Sequence[int] = ()) -> "Stream":
    """A decoder that takes one id at a time; `special` and `after` as of `decode`."""
    return Stream(functools.partial(self.decode, special=special), after)

  def save(self, path: str | os.PathLike) -> None:
    """Writes a tokenizer.json, whole or not at all, and its settings beside it; into a folder
    under that name."""
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    for name, content in self.settings.items():  # first: who finds the one finds the others
      cache.write_atomically(path.with_name(name), content)
    cache.write_atomically(path, self._json())

  def _json(self) -> str:
    return self._inner.to_str()


class Stream:
  """Text from ids one at a time; the pieces joined are the decoding of all ids at once.

  A character may take several tokens, and until it is whole it decodes to U+FFFD. So a last
  U+FFFD is held back until more ids show what it is, or `flush` says that none will come.
  """

  def __init__(self, decode, after: Sequence[int] = ()):
    self._decode = decode
    # The ids before and since the last time that nothing was held back. Some decoders treat the
    # first token of a text apart (a leading space), so the earlier ones are decoded along.
    self._context, self._pending = list(after), []
    self._emitted = len(
      decode(self._context)
    )  # characters of the decoding of context and pending that are out

  def push(self, token: int) -> str:
    """Adds an id; returns the text that is certain now, often one word, sometimes nothing."""
    self._pending.append(int(token))
    text = self._decode(self._context + self._pending)
    held = text.endswith(UNKNOWN_CHARACTER)
    piece = text[self._emitted : len(text) - held]
    self._emitted += len(piece)
    if piece and not held:
      self._context, self._pending = self._pending, []
      self._emitted = len(self._decode(self._context))
    return piece

  def flush(self) -> str:
    """What was held back, as U+FFFD; the stream then starts anew."""
    piece = self._decode(self._context + self._pending)[self._emitted :]
    self._context, self._pending, self._emitted = [], [], 0
    return piece


def get(
  config,
  documents: list[str],
  cache_dir: str | os.PathLike | None = None,
  special: Sequence[Sequence[str]] = (),
) -> Tokenizer:
  """The tokenizer that a config asks for.

  Args:
    config: `name`: one of `KINDS`, see tokenizer_training.py, or the path of a published one, see
      `load`; `vocab_size`: of those that are trained but for "char", the end and other special
      tokens included (fewer when the documents are too small for as many pieces).
    documents: training documents, for all kinds but "byte".
    cache_dir: where trained vocabularies are kept; ~/.cache/llm_jax if None.
    special: what an objective needs beside the end token, see `Tokenizer.extended`.

  Raises:
    UserError: an unknown name, a vocabulary too small, no documents, a file that is none.
  """
  name = config.name
  if name in KINDS:
    reserved = len(special) + 1  # the end token
    trained = tokenizer_training.definition(name, config.vocab_size, reserved, documents, cache_dir)
    made = Tokenizer(trained)
  elif os.path.exists(os.path.expanduser(name)) or os.sep in name or Path(name).suffix:
    made = load(name)
  else:
    raise unknown("tokenizer", name, (*KINDS, "path/to/tokenizer.json"))
  return made.extended(special)


def of_symbols(symbols: Sequence[str]) -> Tokenizer:
  """One that has these names as its ids, in their order; in a text they stand between spaces.

  Args:
    symbols: distinct names without spaces; the first is the end token's.
  """
  return Tokenizer(tokenizer_training.of_symbols(symbols), symbols[0])


def load(path: str | os.PathLike) -> Tokenizer:
  """Reads a tokenizer.json, one of the published files of tokenizer_files.py, or the one of them
  that a folder holds.

  Raises:
    UserError: no such file, several in a folder, one that cannot be read, or no token that ends a
      document.
  """
  return Tokenizer(*tokenizer_files.read(Path(path).expanduser()))


def _byte_tokens(definition) -> dict[int, int]:
  """The value of each token that stands for one byte, in a definition that falls back on them."""
  if isinstance(definition, WorldVocabulary) or "ByteFallback" not in repr(definition.decoder):
    return {}
  found = {value: definition.token_to_id(f"<0x{value:02X}>") for value in range(256)}
  return {index: value for value, index in found.items() if index is not None}
