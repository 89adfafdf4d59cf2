"""The vocabulary of the RWKV World models: the longest piece that fits is taken, again and again.

It stands where a definition of the `tokenizers` package stands, with the methods of it that
`Tokenizer` calls: no model of that package matches bytes like this in less than quadratic time.

Source: github.com/BlinkDL/ChatRWKV, tokenizer/rwkv_tokenizer.py and rwkv_vocab_v20230424.txt.
"""

import ast
import collections
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import tokenizers

END_ID = 0  # of no line in the published file: what stands between documents
_TYPE = "LongestMatch"


class Encoding(NamedTuple):
  """The ids of a text; nothing is put around it."""

  ids: list[int]
  tokens: Sequence[str] = ()
  special_tokens_mask: Sequence[int] = ()


class WorldVocabulary:
  """Pieces of bytes by their ids, and special tokens, which stand for no bytes."""

  def __init__(self, pieces: Mapping[int, bytes], special: Mapping[str, int]):
    """Takes pieces and special tokens, by name.

    Raises:
      ValueError: a byte is no piece, so that some texts could not be written.
    """
    self._pieces, self._special = dict(pieces), dict(special)
    self._ids = {piece: index for index, piece in self._pieces.items()}
    missing = [value for value in range(256) if bytes([value]) not in self._ids]
    if missing:
      raise ValueError(f"of the 256 bytes, {len(missing)} are no pieces, such as {missing[0]}")
    # The lengths of the pieces that begin with two bytes, the longest first.
    lengths = collections.defaultdict(set)
    for piece in self._ids:
      if len(piece) > 1:
        lengths[piece[:2]].add(len(piece))
    self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}

  @classmethod
  def from_file(cls, text: str) -> "WorldVocabulary":
    """Reads the published form: a line for each piece, with its id, its Python literal and its
    number of bytes.

    Raises:
      ValueError: the text is no such list.
    """
    pieces = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
      try:
        index, rest = line.split(" ", 1)
        literal, length = rest.rsplit(" ", 1)
        piece = ast.literal_eval(literal)
        piece = piece.encode() if isinstance(piece, str) else piece
        whole = len(piece) == int(length)
        pieces[int(index)] = piece
      except (ValueError, SyntaxError, TypeError) as error:
        raise ValueError(f"line {number}, {line[:40]!r}: {error}") from None
      if not whole:
        raise ValueError(f"line {number}, {line[:40]!r}: the piece has {len(piece)} bytes")
    return cls(pieces, {})

  @classmethod
  def from_str(cls, text: str) -> "WorldVocabulary":
    """Reads what `to_str` wrote.

    Raises:
      ValueError, KeyError: something else.
    """
    found = json.loads(text)
    pieces = {index: piece.encode("latin-1") for piece, index in found["model"]["vocab"].items()}
    return cls(pieces, {token["content"]: token["id"] for token in found["added_tokens"]})

  @staticmethod
  def wrote(text: str) -> bool:
    """Whether a file is one of `to_str`, and not of the `tokenizers` package."""
    return text.startswith(f'{{"model": {{"type": "{_TYPE}"')

  def to_str(self) -> str:
    """A tokenizer.json of our own: the characters of a piece are its bytes."""
    vocabulary = {piece.decode("latin-1"): index for index, piece in self._pieces.items()}
    added = [{"id": i, "content": name, "special": True} for name, i in self._special.items()]
    return json.dumps({"model": {"type": _TYPE, "vocab": vocabulary}, "added_tokens": added})

  # --------------------------------------------------------------------------- as the package's

  def no_padding(self) -> None:
    """There is none."""

  def no_truncation(self) -> None:
    """There is none."""

  def add_special_tokens(self, names: Sequence[str]) -> None:
    """A new name takes `END_ID` if that is free, else the id after the last."""
    used = {*self._pieces, *self._special.values()}
    for name in dict.fromkeys(names):
      if name not in self._special:
        self._special[name] = max(used) + 1 if END_ID in used else END_ID
        used.add(self._special[name])

  def get_added_tokens_decoder(self) -> dict[int, tokenizers.AddedToken]:
    """The special tokens by id."""
    return {i: tokenizers.AddedToken(name, special=True) for name, i in self._special.items()}

  def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
    """All ids, by names no two of which are equal: a piece may be spelt like a special token."""
    pieces = {repr(piece): index for piece, index in self._ids.items()}
    return {**pieces, **self._special} if with_added_tokens else pieces

  def token_to_id(self, name: str) -> int | None:
    """The id of a special token."""
    return self._special.get(name)

  def id_to_token(self, index: int) -> str | None:
    """The name of an id, as in `get_vocab`."""
    special = {i: name for name, i in self._special.items()}
    return special.get(index) or (repr(self._pieces[index]) if index in self._pieces else None)

  def encode(self, text: str, add_special_tokens: bool = False) -> Encoding:
    """The ids of a text; names of special tokens in it are ordinary characters."""
    data = text.encode()
    known, lengths = self._ids, self._lengths
    ids, at = [], 0
    while at < len(data):
      for length in lengths.get(data[at : at + 2], ()):
        piece = data[at : at + length]
        if piece in known:
          break
      else:
        piece = data[at : at + 1]
      ids.append(known[piece])
      at += len(piece)
    return Encoding(ids)

  def encode_batch_fast(
    self, texts: Iterable[str], add_special_tokens: bool = False
  ) -> list[Encoding]:
    """`encode`, of many texts."""
    return [self.encode(text) for text in texts]

  def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
    """The text of some ids; bytes that are not UTF-8 become U+FFFD."""
    names = {} if skip_special_tokens else {i: n.encode() for n, i in self._special.items()}
    found = (self._pieces.get(index) or names.get(index, b"") for index in ids)
    return b"".join(found).decode("utf-8", errors="replace")
