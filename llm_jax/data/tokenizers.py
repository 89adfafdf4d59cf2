"""Tokenizers: bytes, characters, byte-level BPE trained on the corpus, or a tokenizer.json."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from llm_jax.data import cache, corpora
from llm_jax.data.corpora import END_OF_TEXT
from llm_jax.errors import UserError, unknown

logger = logging.getLogger(__name__)

END = END_OF_TEXT
# What closes a document in the tokenizers of published checkpoints, the likeliest first.
KNOWN_ENDS = (END, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[SEP]")
# What lies beside a published tokenizer.json and goes wherever that goes, unchanged; the names of
# tokens are in the first two, of which the first counts.
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
UNKNOWN_CHARACTER = "\ufffd"
RECIPE = 1  # to be raised with any change of how BPE is trained: older caches are then not read


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """What an objective is told of the token ids.

  Attributes:
    size: all ids are below it.
    special: (name, id) of the tokens that stand for no text.
    end_id: the one after each document.
    begin_id: the one before each document, often the same.
  """

  size: int
  special: tuple[tuple[str, int], ...] = ()
  end_id: int = 0
  begin_id: int = 0

  @classmethod
  def numbered(cls, size: int, special: Sequence[Sequence[str]]) -> "Vocabulary":
    """One without a tokenizer: the last ids are the special tokens, as `Tokenizer.extended`."""
    return cls(size, tuple((names[0], size - 1 - i) for i, names in enumerate(special)))

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
    vocabulary: what an objective is told of the ids.
    sha256: hash of the whole definition; equal for a tokenizer and its saved copy.
  """

  def __init__(
    self,
    definition: tokenizers.Tokenizer,
    end: str = END,
    begin: str | None = None,
    settings: dict[str, str] | None = None,
  ):
    """Takes a definition of the `tokenizers` package.

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
    self.end_id, self.begin_id = map(self._inner.token_to_id, (end, begin))
    pad = _named(self._inner, self.settings).get("pad_token")
    self.pad_id = None if pad is None else self._inner.token_to_id(pad)
    # Ids may have holes (a published file's added tokens), and a table must reach the last one.
    self.vocab_size = max(self._inner.get_vocab(with_added_tokens=True).values()) + 1
    added = self._inner.get_added_tokens_decoder().items()
    special = tuple((token.content, index) for index, token in added if token.special)
    self.vocabulary = Vocabulary(self.vocab_size, special, self.end_id, self.begin_id)

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
    definition = tokenizers.Tokenizer.from_str(self._inner.to_str())
    definition.add_special_tokens(names)
    end, begin = map(self._inner.id_to_token, (self.end_id, self.begin_id))
    return Tokenizer(definition, end, begin, self.settings)

  def encode(self, text: str) -> list[int]:
    """The ids of a text, without the tokens before and after it."""
    return self._inner.encode(text, add_special_tokens=False).ids

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

  def decode(self, ids: Iterable[int], special: bool = False) -> str:
    """The text of some ids; bytes that are not UTF-8 become U+FFFD.

    Args:
      ids: special tokens among them are no text.
      special: whether to show them by their names, but for those around a text.
    """
    ids = [int(token) for token in ids]
    if special:
      ids = [token for token in ids if token not in (self.begin_id, self.end_id, self.pad_id)]
    return self._inner.decode(ids, skip_special_tokens=not special)

  def stream(self, special: bool = False) -> "Stream":
    """A decoder that takes one id at a time; `special` as of `decode`."""
    return Stream(functools.partial(self.decode, special=special))

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

  def __init__(self, decode):
    self._decode = decode
    # The ids before and since the last time that nothing was held back. Some decoders treat the
    # first token of a text apart (a leading space), so the earlier ones are decoded along.
    self._context, self._pending = [], []
    self._emitted = 0  # characters of the decoding of context and pending that are out

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
    config: `name`: "byte" (256 tokens and the end), "char" (the characters of the documents,
      U+FFFD for all others, and the end), "bpe" (byte-level BPE trained on the documents), or the
      path of a tokenizer.json or of a folder that holds one; `vocab_size`: of "bpe", the end and
      other special tokens included (fewer when the documents are too small for as many merges).
    documents: training documents, for "char" and "bpe".
    cache_dir: where trained vocabularies are kept; ~/.cache/llm_jax if None.
    special: what an objective needs beside the end token, see `Tokenizer.extended`.

  Raises:
    UserError: an unknown name, a vocabulary too small, no documents, a file that is none.
  """
  name = config.name
  if name == "byte":
    made = Tokenizer(_byte_level(models.BPE(vocab=_byte_vocabulary(), merges=[])))
  elif name in ("char", "bpe"):
    if not any(documents):
      raise UserError(f"The {name!r} tokenizer is made from training documents; found no text.")
    size = config.vocab_size - len(special)
    made = _characters(documents) if name == "char" else _bpe(size, documents, cache_dir)
  elif os.path.exists(os.path.expanduser(name)) or os.sep in name or name.endswith(".json"):
    made = load(name)
  else:
    raise unknown("tokenizer", name, ("byte", "char", "bpe", "path/to/tokenizer.json"))
  return made.extended(special)


def load(path: str | os.PathLike) -> Tokenizer:
  """Reads a tokenizer.json, or the one in a folder.

  Raises:
    UserError: no such file, not a tokenizer.json, or no token that ends a document.
  """
  file = Path(path).expanduser()
  if file.is_dir():
    file = file / "tokenizer.json"
  try:
    text = file.read_text(encoding="utf-8")
  except FileNotFoundError:
    raise UserError(
      f"No tokenizer at {str(file)!r}. Expected the path of a tokenizer.json, a folder that holds "
      "one, or one of byte, char, bpe."
    ) from None
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"{file} cannot be read as a tokenizer.json: {error}.") from None
  try:
    definition = tokenizers.Tokenizer.from_str(text)
  except Exception as error:  # the package raises plain Exception
    raise UserError(f"{file} is not a tokenizer.json: {error}.") from None
  return published(definition, file)


def published(definition: tokenizers.Tokenizer, file: Path) -> Tokenizer:
  """A definition and the `SETTINGS` beside its file.

  The end token is the `eos_token` or `sep_token` that they name, else the first of `KNOWN_ENDS` in
  the vocabulary. The begin token is the one that the definition itself puts before a text, else
  their `bos_token` or `cls_token`, else the end token.

  Raises:
    UserError: no token that ends a document.
  """
  definition.no_padding()  # or an empty text would seem to begin with padding
  settings = {}
  for name in SETTINGS:
    with contextlib.suppress(OSError, UnicodeDecodeError):
      settings[name] = (file.parent / name).read_bytes().decode()
  named = _named(definition, settings)
  ends = (named.get("eos_token"), named.get("sep_token"), *KNOWN_ENDS)
  end = next((end for end in ends if end and definition.token_to_id(end) is not None), None)
  if end is None:
    raise UserError(
      f"{file} has no token that ends a document. Expected one of {', '.join(KNOWN_ENDS)}, or the "
      "`eos_token` of a tokenizer_config.json beside it."
    )
  around = definition.encode("")
  begin = around.tokens[0] if any(around.special_tokens_mask[:1]) else None
  begin = begin or named.get("bos_token") or named.get("cls_token")
  return Tokenizer(definition, end, begin, settings)


def _named(definition: tokenizers.Tokenizer, settings: dict[str, str]) -> dict[str, str]:
  """{"eos_token": "</s>", ...}: the tokens that settings name and the definition has."""
  found = {}
  for file in reversed(SETTINGS[:2]):
    try:
      entries = dict(json.loads(settings.get(file, "{}")))
    except (ValueError, TypeError):
      continue
    for key, value in entries.items():
      name = value.get("content") if isinstance(value, dict) else value
      known = isinstance(name, str) and definition.token_to_id(name) is not None
      if known and key.endswith("_token"):
        found[key] = name
  return found


def _byte_level(model) -> tokenizers.Tokenizer:
  definition = tokenizers.Tokenizer(model)
  definition.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  definition.decoder = decoders.ByteLevel()
  return definition


def _byte_vocabulary() -> dict[str, int]:
  """The character by which byte-level models write each byte, to the byte's value.

  Printable Latin-1 stands for itself; the others, in order, for U+0100 onwards.
  """
  printable = {*range(0x21, 0x7F), *range(0xA1, 0x100)} - {0xAD}
  others = [value for value in range(256) if value not in printable]
  names = {value: chr(256 + place) for place, value in enumerate(others)}
  return {names.get(value, chr(value)): value for value in range(256)}


def _characters(documents: list[str]) -> Tokenizer:
  letters = sorted(set().union(*documents) - {UNKNOWN_CHARACTER})
  vocabulary = {letter: index for index, letter in enumerate([UNKNOWN_CHARACTER, *letters])}
  definition = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN_CHARACTER))
  definition.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
  definition.decoder = decoders.Fuse()
  return Tokenizer(definition)


def _bpe(vocab_size: int, documents: list[str], cache_dir) -> Tokenizer:
  if vocab_size < 257:
    raise UserError(
      f"tokenizer.vocab_size must leave at least 257 for bpe (256 bytes and the end token), found "
      f"{vocab_size}. The byte tokenizer has no other tokens."
    )
  recipe = f"{RECIPE} {tokenizers.__version__} {vocab_size} "
  key = hashlib.sha256((recipe + corpora.fingerprint(documents)).encode()).hexdigest()
  path = cache.folder(cache_dir) / f"bpe-{key[:32]}.json"
  if path.exists():
    try:
      return load(path)
    except UserError as error:
      logger.warning("training again: %s", error)
  definition = _byte_level(models.BPE())
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size - 1,  # the end token comes last
    initial_alphabet=list(_byte_vocabulary()),
    show_progress=False,
  )
  definition.train_from_iterator(documents, trainer)
  tokenizer = Tokenizer(definition)
  cache.keep(path, tokenizer._json())
  logger.info("trained bpe: %d tokens, sha256 %s", tokenizer.vocab_size, tokenizer.sha256)
  return tokenizer
