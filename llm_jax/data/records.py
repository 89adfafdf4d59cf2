"""Records: labelled data as dicts of fields, read from files.

What one record is, by format:
  .tsv             a line; the columns are the fields, in the order of the objective's FIELDS, or
                   as a first line names them
  .jsonl, .parquet an object, a row; the fields by their names
  .conll           a sentence: lines `word TAB tag` up to an empty one; fields words and tags
  .json            a question of a file in SQuAD's format; fields question, context, answers
                   ((text, start), ...), id and group, which is one for all of a paragraph
  FILE,FILE        a line of each of two plain files, the fields in their order: source, target
Each of them but .parquet may be compressed (.gz).
"""

import dataclasses
import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from llm_jax.errors import UserError, unknown

FORMATS = (".tsv", ".jsonl", ".parquet", ".conll", ".json", "FILE,FILE")


@dataclasses.dataclass(frozen=True)
class Records:
  """Records and what identifies them.

  Attributes:
    name: what the user asked for, and for a part of it which part.
    records: dicts of fields.
    sha256: hash of the records in their order.
  """

  name: str
  records: list[dict]
  sha256: str

  @property
  def documents(self) -> list[str]:
    """All texts in the records: what a tokenizer is trained on."""
    return list(dict.fromkeys(text for record in self.records for text in _texts(record)))

  @property
  def num_bytes(self) -> int:
    """Bytes of UTF-8 in all texts."""
    return sum(len(text.encode()) for record in self.records for text in _texts(record))


def load(path: str, fields: Sequence[str]) -> Records:
  """Reads a file of records.

  Args:
    path: a file of one of `FORMATS`.
    fields: that every record must have.

  Raises:
    UserError: no such file, an unknown format, or a record without one of the fields; the message
      names the line.
  """
  if not path:
    raise UserError(
      f"The objective reads records with the fields {', '.join(fields)}, and there are none "
      f"embedded: give a file ({', '.join(FORMATS)}) with --config.data.path=FILE."
    )
  if "," in path:
    found = _lines_of_each(path.split(","), fields)
  else:
    found = _READERS[_suffix(path)](path, fields)
  records = []
  for place, record in found:
    missing = [field for field in fields if field not in record]
    if missing:
      raise UserError(
        f"{path}, {place}: expected the fields {', '.join(fields)}; {missing[0]!r} is missing. "
        f"Found {', '.join(record)}."
      )
    records.append(record)
  if not records:
    raise UserError(f"{path} holds no records.")
  return _named(path, records)


def split(part: Records, fraction: float, seed: int) -> tuple[Records, Records]:
  """Holds out `fraction` of the records; those of one group, or equal ones, stay on one side.

  Returns:
    (training, validation), each in the order of the records.

  Raises:
    UserError: the fraction is not between 0 and 1, or there are not two different groups.
  """
  if not 0 < fraction < 1:
    raise UserError(
      f"data.validation_fraction must lie between 0 and 1, found {fraction}; or name a file with "
      "data.validation_path."
    )
  keys = [_digest(seed, record.get("group", record)) for record in part.records]
  distinct = sorted(set(keys))
  if len(distinct) < 2:
    raise UserError(
      f"{part.name} holds {len(part.records)} records of one group; a validation part needs a "
      "second one. Give more data, or a file of its own with data.validation_path."
    )
  count = min(max(round(fraction * len(distinct)), 1), len(distinct) - 1)
  held_out = set(distinct[:count])
  pairs = list(zip(keys, part.records, strict=True))
  return (
    _named(f"{part.name} (training)", [record for key, record in pairs if key not in held_out]),
    _named(f"{part.name} (validation)", [record for key, record in pairs if key in held_out]),
  )


def _named(name: str, records: list[dict]) -> Records:
  return Records(name, records, _digest(*records))


def _digest(*values) -> str:
  digest = hashlib.sha256()
  for value in values:
    digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")
  return digest.hexdigest()


def _texts(record: dict) -> Iterator[str]:
  for name, value in record.items():
    if name == "words":
      yield " ".join(value)
    elif isinstance(value, str) and name not in ("label", "id", "group"):
      yield value


def _suffix(path: str) -> str:
  suffix = Path(path.removesuffix(".gz")).suffix
  if suffix not in _READERS:
    raise unknown("format of records", suffix or path, FORMATS)
  return suffix


def _read(path: str) -> str:
  opened = gzip.open if path.endswith(".gz") else open
  try:
    with opened(Path(path).expanduser(), "rt", encoding="utf-8-sig", newline=None) as file:
      return file.read()
  except FileNotFoundError:
    raise UserError(f"No file {path!r}.") from None
  except (OSError, EOFError, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read as text: {error}.") from None


def _lines(path: str) -> list[str]:
  return _read(path).removesuffix("\n").split("\n")  # not splitlines: text may hold U+2028


def _tsv(path, fields):
  rows = [line.split("\t") for line in _lines(path)]
  names = rows[0] if set(fields) <= set(rows[0]) else None
  for number, row in enumerate(rows[1:] if names else rows, 2 if names else 1):
    columns = names or fields
    if len(row) != len(columns):
      raise UserError(
        f"{path}, line {number}: expected {len(columns)} columns ({', '.join(columns)}) with tabs "
        f"between them, found {len(row)}."
      )
    yield f"line {number}", dict(zip(columns, row, strict=True))


def _jsonl(path, fields):
  for number, line in enumerate(_lines(path), 1):
    if not line.strip():
      continue
    try:
      record = json.loads(line)
    except ValueError as error:
      raise UserError(f"{path}, line {number}: not JSON: {error}.") from None
    if not isinstance(record, dict):
      raise UserError(f"{path}, line {number}: expected an object, found {line[:40]!r}.")
    yield f"line {number}", record


def _parquet(path, fields):
  import pyarrow
  import pyarrow.parquet

  try:
    rows = pyarrow.parquet.read_table(Path(path).expanduser()).to_pylist()
  except (pyarrow.ArrowException, OSError) as error:
    raise UserError(f"{path} is not a readable Parquet file: {error}.") from None
  yield from ((f"row {number}", row) for number, row in enumerate(rows))


def _conll(path, fields):
  words, tags, first = [], [], 1
  for number, line in enumerate([*_lines(path), ""], 1):
    if line.strip():
      word, _, tag = line.rstrip().rpartition("\t")
      if not word:
        raise UserError(f"{path}, line {number}: expected `word TAB tag`, found {line!r}.")
      words.append(word.split("\t")[0])
      tags.append(tag)
    elif words:
      yield f"line {first}", {"words": words, "tags": tags}
      words, tags = [], []
    if not words:
      first = number + 1


def _squad(path, fields):
  try:
    articles = json.loads(_read(path))["data"]
    for a, article in enumerate(articles):
      for p, paragraph in enumerate(article["paragraphs"]):
        for question in paragraph["qas"]:
          answers = [[found["text"], found["answer_start"]] for found in question["answers"]]
          yield (
            f"question {question['id']}",
            {
              "question": question["question"],
              "context": paragraph["context"],
              "answers": answers,
              "id": str(question["id"]),
              "group": f"{a}.{p}",
            },
          )
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} is no file in SQuAD's format: {error!r}.") from None


def _lines_of_each(paths, fields):
  if len(paths) != len(fields):
    raise UserError(
      f"Expected {len(fields)} files with a comma between them, for {', '.join(fields)}; found "
      f"{len(paths)}: {', '.join(paths)}."
    )
  columns = [_lines(path) for path in paths]
  if len({len(column) for column in columns}) > 1:
    counts = ", ".join(f"{path}: {len(c)}" for path, c in zip(paths, columns, strict=True))
    raise UserError(f"Files of one data set need equally many lines; found {counts}.")
  for number, row in enumerate(zip(*columns, strict=True), 1):
    yield f"line {number}", dict(zip(fields, row, strict=True))


_READERS = {
  ".tsv": _tsv,
  ".jsonl": _jsonl,
  ".parquet": _parquet,
  ".conll": _conll,
  ".json": _squad,
}
