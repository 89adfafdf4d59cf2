"""Corpora: lists of documents read from the embedded text, files, globs or `datasets`.

What is one document, by format:
  JSONL, Parquet   one record's `text`
  plain text       what stands between `<|endoftext|>` marks; a text without marks is cut into
                   passages of 2 to 4 kB (see `passages`)
  embedded         see `embedded.py`
"""

import dataclasses
import difflib
import glob
import gzip
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from llm_jax.data import embedded
from llm_jax.data.special_tokens import END
from llm_jax.errors import UserError

logger = logging.getLogger(__name__)

END_OF_TEXT = END[0]  # between the documents of a file
FORMATS = "plain text, .jsonl with a `text` field, either of them .gz, or .parquet with `text`"


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Documents and what identifies them.

  Attributes:
    name: what the user asked for, and for a part of it which part.
    documents: texts, none of them empty.
    sha256: hash of the documents and their borders, see `fingerprint`.
    num_bytes: bytes of UTF-8 in all documents; the denominator of bits per byte.
  """

  name: str
  documents: list[str]
  sha256: str
  num_bytes: int


def fingerprint(documents: list[str]) -> str:
  """SHA-256 over each document's length and its UTF-8 bytes, so that borders count too."""
  digest = hashlib.sha256()
  for text in documents:
    data = text.encode()
    digest.update(len(data).to_bytes(8, "little"))
    digest.update(data)
  return digest.hexdigest()


def load(path: str = "") -> Corpus:
  """Reads a whole corpus into memory, in an order that depends on nothing but its content.

  Args:
    path: "" for the embedded corpus; a file or a glob (its files in sorted order) of plain text,
      JSONL or Parquet; or `datasets:NAME`, `datasets:ORG/NAME[/CONFIG][:SPLIT]` for the
      `datasets` package (split "train" if none is given).

  Raises:
    UserError: a file is missing, empty, binary or malformed, or `datasets` is not installed.
  """
  if not path:
    return _corpus("the documentation in Python", embedded.documents())
  if path.startswith("datasets:"):
    return _corpus(path, _from_datasets(path.removeprefix("datasets:")))
  documents = []
  for file in _files(path):
    found = _read(file)
    if not found:
      raise UserError(f"{file} holds no text. Expected {FORMATS}; found nothing but white space.")
    documents += found
  return _corpus(path, documents)


def split(corpus: Corpus, fraction: float, seed: int) -> tuple[Corpus, Corpus]:
  """Holds out `fraction` of the documents, at least one and never all.

  A document's side follows from its content and the seed, not from its place: a corpus in
  another order is split the same way, and equal documents stay on one side.

  Returns:
    (training, validation), each in the corpus's order.

  Raises:
    UserError: the fraction is not between 0 and 1, or there are not two different documents.
  """
  if not 0 < fraction < 1:
    raise UserError(
      f"data.validation_fraction must lie between 0 and 1, found {fraction}. Training reports "
      "its validation loss, so some documents must be held out; 0.05 is usual."
    )
  keys = [hashlib.sha256(f"{seed}\n{text}".encode()).digest() for text in corpus.documents]
  distinct = sorted(set(keys))
  if len(distinct) < 2:
    raise UserError(
      f"{corpus.name} holds one document ({corpus.num_bytes} bytes), and a validation part needs "
      f"a second one. Give more text, or separate documents by {END_OF_TEXT}."
    )
  count = min(max(round(fraction * len(distinct)), 1), len(distinct) - 1)
  held_out = set(distinct[:count])
  pairs = list(zip(keys, corpus.documents, strict=True))
  training = [text for key, text in pairs if key not in held_out]
  validation = [text for key, text in pairs if key in held_out]
  return _corpus(f"{corpus.name} (training)", training), _corpus(
    f"{corpus.name} (validation)", validation
  )


def passages(text: str) -> list[str]:
  """Cuts a text without document marks so that a part of it can be held out.

  A passage ends at the last blank line between 2,000 and 4,000 characters, else the last line
  end, else the last space there, else at 4,000. A text shorter than 80,000 characters is cut
  finer in proportion, so that a twentieth of it can still be held out. The passages joined are
  the text.
  """
  longest = min(max(len(text) // 20, 200), 4000)
  found, start = [], 0
  while len(text) - start > longest:
    stop = start + longest
    for mark in ("\n\n", "\n", " "):
      place = text.rfind(mark, start + longest // 2, start + longest)
      if place >= 0:
        stop = place + len(mark)
        break
    found.append(text[start:stop])
    start = stop
  found.append(text[start:])
  return [passage for passage in found if passage.strip()]


def _corpus(name: str, documents: list[str]) -> Corpus:
  for index, text in enumerate(documents):
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise UserError(
        f"Document {index} of {name} holds a lone surrogate (half of a \\uD83D\\uDE00 pair), "
        f"which is no text: {error}. Mend or remove it."
      ) from None
  num_bytes = sum(len(text.encode()) for text in documents)
  corpus = Corpus(name, documents, fingerprint(documents), num_bytes)
  logger.info(
    "corpus %s: %d documents, %d bytes, sha256 %s", name, len(documents), num_bytes, corpus.sha256
  )
  return corpus


def _files(path: str) -> list[Path]:
  expanded = os.path.expanduser(path)
  if os.path.isdir(expanded):
    raise UserError(
      f"{path} is a folder. Expected a file or a glob; for all text files in it give "
      f"{os.path.join(path, '*.txt')!r}."
    )
  if os.path.exists(expanded):
    return [Path(expanded)]
  found = sorted(Path(name) for name in glob.glob(expanded, recursive=True))
  found = [file for file in found if file.is_file()]
  if not found:
    raise UserError(f"No data file {path!r}. {_nearest(Path(expanded))} Expected {FORMATS}.")
  return found


def _nearest(path: Path) -> str:
  """A sentence that names the likeliest cause: the folder, or a file of nearly that name."""
  folder = path.parent
  if not folder.is_dir():
    return f"There is no folder {str(folder)!r}."
  names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
  close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
  if close:
    return f"Did you mean {str(folder / close[0])!r}?"
  listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
  return f"The folder {str(folder)!r} holds {listed or 'no files'}."


def _read(file: Path) -> list[str]:
  suffixes = [suffix.lower() for suffix in file.suffixes]
  compressed = suffixes[-1:] == [".gz"]
  kind = (suffixes[:-1] if compressed else suffixes)[-1:]
  if kind == [".parquet"]:
    return _from_parquet(file)
  text = _text(file, compressed)
  if kind in ([".jsonl"], [".ndjson"]):
    return list(_from_jsonl(file, text))
  if END_OF_TEXT in text:
    pieces = (piece.strip("\n") for piece in text.split(END_OF_TEXT))
    return [piece for piece in pieces if piece.strip()]
  return passages(text)


def _text(file: Path, compressed: bool) -> str:
  try:
    data = gzip.decompress(file.read_bytes()) if compressed else file.read_bytes()
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise UserError(f"{file} is not a whole gzip file: {error}.") from None
  except OSError as error:
    raise UserError(f"{file} cannot be read: {error.strerror}.") from None
  if not data.strip():
    raise UserError(f"{file} is empty ({len(data)} bytes). Expected {FORMATS}.")
  place = data.find(b"\0")
  if place >= 0:
    raise UserError(
      f"{file} is binary: it has a NUL byte at offset {place}. Expected {FORMATS}, as UTF-8."
    )
  try:
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(
      f"{file} is not UTF-8: {error.reason} at byte {error.start}. Expected {FORMATS}, as UTF-8; "
      "`iconv -t utf-8` converts other encodings."
    ) from None
  return text.replace("\r\n", "\n")


def _from_jsonl(file: Path, text: str) -> Iterator[str]:
  # Not splitlines(): JSON strings may hold the other separators of Unicode (U+2028) unescaped.
  for number, line in enumerate(text.split("\n"), start=1):
    if not line.strip():
      continue
    place = f"{file}, line {number}"
    try:
      record = json.loads(line)
    except ValueError as error:
      raise UserError(f"{place} is not JSON: {error}. Expected one object a line.") from None
    if not isinstance(record, dict):
      raise UserError(
        f"{place}: expected an object with a `text` field, found {type(record).__name__}."
      )
    if "text" not in record:
      keys = ", ".join(map(repr, record)) or "none"
      raise UserError(f"{place} has no `text` field. Keys found: {keys}. Rename the field.")
    if not isinstance(record["text"], str):
      raise UserError(f"{place}: `text` must be a string, found {type(record['text']).__name__}.")
    if record["text"].strip():
      yield record["text"]


def _from_parquet(file: Path) -> list[str]:
  import pyarrow
  import pyarrow.parquet

  try:
    names = pyarrow.parquet.read_schema(file).names
    if "text" not in names:
      raise UserError(f"{file} has no `text` column. Columns found: {', '.join(names) or 'none'}.")
    column = pyarrow.parquet.read_table(file, columns=["text"])["text"]
  except (pyarrow.ArrowException, OSError) as error:
    raise UserError(f"{file} is not a readable Parquet file: {error}.") from None
  return _strings(column.to_pylist(), f"{file}")


def _from_datasets(spec: str) -> list[str]:
  try:
    import datasets
  except ImportError:
    raise UserError(
      f"datasets:{spec} needs the `datasets` package, which is not installed. "
      "Run `pip install datasets`, or give a file."
    ) from None
  name, _, part = spec.partition(":")
  pieces = name.split("/", 2)
  config = pieces[2] if len(pieces) == 3 else None
  try:
    table = datasets.load_dataset("/".join(pieces[:2]), config, split=part or "train")
  except Exception as error:  # whatever a hub, a network or a file format can raise
    raise UserError(f"datasets:{spec} could not be loaded: {error}") from None
  if "text" not in table.column_names:
    raise UserError(
      f"datasets:{spec} has no `text` column. Columns found: {', '.join(table.column_names)}."
    )
  documents = _strings(table["text"], f"datasets:{spec}")
  if not documents:
    raise UserError(f"datasets:{spec} holds no text.")
  return documents


def _strings(values, name: str) -> list[str]:
  values = list(values)
  for index, value in enumerate(values):
    if not isinstance(value, str):
      raise UserError(
        f"{name}, row {index}: `text` must be a string, found {type(value).__name__}."
      )
  return [value for value in values if value.strip()]
