"""Texts of labelled records made into token rows: encoded, made to fit, padded."""

from collections.abc import Sequence

import numpy as np

from llm_jax.data.tokenizers import Tokenizer
from llm_jax.errors import UserError, unknown

TOO_LONG = ("error", "cut")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
  """Refuses an objective's option that is none of its choices."""
  if value not in choices:
    raise unknown(f"objective_options.{name}", value, choices)


def encode(tokenizer: Tokenizer, records: list[dict], field: str) -> list[list[int]]:
  """The ids of a field of each record, nothing around them.

  Raises:
    UserError: a text that is none, or of which the tokenizer leaves nothing; it names the record.
  """
  texts = [record[field] for record in records]
  for number, text in enumerate(texts, 1):
    if not isinstance(text, str):
      raise UserError(f"Record {number}: expected a text as {field!r}, found {text!r}.")
  found = [ids[1:-1].tolist() for ids in tokenizer.encode_documents(texts)]
  for number, (text, ids) in enumerate(zip(texts, found, strict=True), 1):
    if not ids:
      raise UserError(
        f"Record {number}: {field!r} is empty ({text!r} has no tokens). Give it a text, or leave "
        "the record out."
      )
  return found


def encode_words(tokenizer: Tokenizer, records: list[dict]) -> list[list[list[int]]]:
  """The ids of each of the "words" of each record, with the space before it where the tokenizer
  has one there. A word of which the tokenizer leaves nothing is the end token.

  Raises:
    UserError: a record without words; it is named.
  """
  # Some tokenizers mark a word's beginning by themselves; to the others a space is a character.
  alone = tokenizer.encode("a b") == tokenizer.encode("a") + tokenizer.encode("b")
  pieces = {}
  for number, record in enumerate(records, 1):
    if not record["words"]:
      raise UserError(f"Record {number} has no words. Leave it out.")
    for place, word in enumerate(record["words"]):
      pieces["" if alone or not place else " ", word] = []
  framed = tokenizer.encode_documents([space + word for space, word in pieces])
  for key, ids in zip(pieces, framed, strict=True):
    pieces[key] = ids[1:-1].tolist() or [tokenizer.end_id]
  return [
    [pieces["" if alone or not place else " ", word] for place, word in enumerate(record["words"])]
    for record in records
  ]


def fit(parts: Sequence[list[int]], room: int, too_long: str, number: int) -> list[list[int]]:
  """The parts of a record's row, cut to `room` tokens together if that is asked for.

  Args:
    parts: the ids of each.
    room: what the layout's own tokens leave of seq_len.
    too_long: "error", or "cut": the end of the part that is the longest at the time.
    number: of the record, from 1.

  Raises:
    UserError: they do not fit, or leave no room at all.
  """
  parts, length = [list(part) for part in parts], sum(map(len, parts))
  if room < len(parts):
    raise UserError(
      f"seq_len leaves room for {max(room, 0)} tokens of text beside the tokens that frame it. "
      "Raise --config.seq_len."
    )
  if length > room and too_long == "error":
    raise UserError(
      f"Record {number} has {length} tokens, and seq_len leaves room for {room}. Raise "
      "--config.seq_len, or set --config.objective_options.too_long=cut."
    )
  for _ in range(length - room):
    max(parts, key=len).pop()
  return parts


def padded(rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
  """int32 (N, length), zeros behind each row's own values."""
  made = np.zeros((len(rows), length), np.int32)
  for row, values in zip(made, rows, strict=True):
    row[: len(values)] = values
  return made


def number_of(label: str, numbers: dict[str, int], record: int) -> int:
  """A label's class.

  Raises:
    UserError: no record of the training data has it.
  """
  if str(label) not in numbers:
    raise UserError(
      f"Record {record} has the label {str(label)!r}, which no training record has. They have "
      f"{', '.join(list(numbers)[:12])}."
    )
  return numbers[str(label)]
