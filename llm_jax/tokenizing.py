"""`launch.py tokenizer`: one trained on the text of an experiment, and how some cut a text."""

import copy
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict
from rich import box, cells
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_jax.data import tokenizers
from llm_jax.data.tokenizers import UNKNOWN_CHARACTER, Tokenizer
from llm_jax.errors import UserError, unknown
from llm_jax.training import inputs

_SIZED = ("word", "bpe", "wordpiece", "unigram")
_VISIBLE = str.maketrans({" ": "\u2423", "\n": "\u21b5", "\r": "\u240d", "\t": "\u21e5"})
_NOTE = "\u2423 space, \u21b5 line end, \u21e5 tab, \u2026 a token that completes no character"
# Dark letters on two light colours that a colour-blind eye tells apart.
_STYLES = ("black on #9bd3f5", "black on #ffd27f")


def train(config: ConfigDict, folder: Path | str, name: str | None, vocab_size: int | None) -> str:
  """Trains a tokenizer on a config's training text and writes its tokenizer.json.

  Args:
    config: of an experiment; the special tokens of its objective go in.
    folder: where to write; it may exist, but without a tokenizer.json.
    name: one of `tokenizers.KINDS`; None: the config's.
    vocab_size: how many ids, special tokens included; None: the config's.

  Returns:
    one sentence on what was made.

  Raises:
    UserError: an unknown kind, a size that is too small or that the kind does not take, a
      tokenizer.json that is there already, or no text.
  """
  config, file = copy.deepcopy(config), Path(folder) / inputs.TOKENIZER
  name = name or config.tokenizer.name
  if name not in tokenizers.KINDS:
    raise unknown("kind of tokenizer to train", name, tokenizers.KINDS)
  if vocab_size is not None and name not in _SIZED:
    raise UserError(
      f"--vocab-size is for {', '.join(_SIZED)}; a {name} tokenizer has an id for each {name}. "
      "Leave the flag out."
    )
  if file.exists():
    raise UserError(f"{file} exists, and nothing is overwritten. Choose another folder.")
  asked = vocab_size or config.tokenizer.vocab_size
  config.tokenizer.name, config.tokenizer.vocab_size = name, asked
  text = inputs.load_text(config)
  made = inputs.load_tokenizer(config, file.parent, text)
  try:
    made.save(file)
  except OSError as error:
    raise UserError(f"{file} cannot be written: {error}.") from None
  fewer = f" (of {asked:,} asked for: its text has no more)"
  return (
    f"{file}: {name}, {made.vocab_size:,} ids"
    f"{fewer if name in _SIZED and made.vocab_size < asked else ''}; {_held_out(made, text)}."
  )


def show(text: str, names: Sequence[str], config: ConfigDict, console: Console) -> None:
  """Prints how tokenizers cut a text: a table of all, and for each its pieces with their ids.

  Args:
    text: what is cut; not empty.
    names: paths of published tokenizers, or kinds that are trained on the config's text; (): the
      config's own.
    config: of an experiment.
    console: where to. Neighbouring pieces differ in colour; where there is none, bars part them.

  Raises:
    UserError: no text, or a tokenizer that cannot be read or made.
  """
  if not text:
    raise UserError("There is no text to show. Give some: launch.py tokenizer show TEXT.")
  shown = [(name, _get(name, config)) for name in names or (config.tokenizer.name,)]
  encoded = [tokenizer.encode(text) for _, tokenizer in shown]
  table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
  table.add_column("tokenizer", overflow="fold")
  for column in ("vocabulary", "tokens", "bytes per token", "tokens per word"):
    table.add_column(column, justify="right", overflow="fold")
  words = len(text.split())
  for (name, tokenizer), ids in zip(shown, encoded, strict=True):
    # A tokenizer may drop white space, and so find nothing in a text.
    per_token = f"{len(text.encode()) / len(ids):.2f}" if ids else "-"
    per_word = f"{len(ids) / words:.2f}" if words else "-"
    table.add_row(name, f"{tokenizer.vocab_size:,}", f"{len(ids):,}", per_token, per_word)
  console.print(table)
  for (name, tokenizer), ids in zip(shown, encoded, strict=True):
    console.print(Text(name, style="bold"))
    for line in _lines(pieces(tokenizer, ids), console):
      console.print(line, soft_wrap=True)
    console.print()
  console.print(Text(_NOTE, style="dim"))


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[tuple[str, int]]:
  """What each id adds to the text, and the id. An id that completes no character adds nothing; the
  pieces joined are the text."""
  stream = tokenizer.stream(special=True)
  found = [stream.push(index) for index in ids]
  if found:
    found[-1] += stream.flush()
  for i in range(1, len(found)):
    # What no character came of is told with the next id, but it is of the one before.
    if not found[i - 1] and found[i].startswith(UNKNOWN_CHARACTER):
      found[i - 1], found[i] = UNKNOWN_CHARACTER, found[i].removeprefix(UNKNOWN_CHARACTER)
  return list(zip(found, ids, strict=True))


def _get(name: str, config: ConfigDict) -> Tokenizer:
  wanted = ConfigDict({"name": name, "vocab_size": config.tokenizer.vocab_size})
  trained = name in tokenizers.KINDS and name != "byte"
  return tokenizers.get(wanted, inputs.load_text(config).train_documents if trained else [])


def _held_out(tokenizer: Tokenizer, text: inputs.Text) -> str:
  documents = [document for part, _ in text.validation for document in part.documents]
  tokens = sum(len(ids) - 2 for ids in tokenizer.encode_documents(documents))  # without its frame
  num_bytes = sum(len(document.encode()) for document in documents)
  return f"{num_bytes / max(tokens, 1):.2f} bytes per token of the {num_bytes:,} bytes held out"


def _lines(found: list[tuple[str, int]], console: Console) -> list[Text]:
  """Rows of pieces, and under each piece its id, as wide as the console."""
  plain = console.no_color or not console.is_terminal
  bar, lines = "\u2502" if plain else "", []
  piece_row, id_row, used = Text(bar), Text(bar), len(bar)
  for i, (piece, index) in enumerate(found):
    piece, number = piece.translate(_VISIBLE) or "\u2026", str(index)
    width = max(cells.cell_len(piece), len(number)) + (not plain)
    if used > len(bar) and used + width + len(bar) > console.width:
      lines += [piece_row, id_row]
      piece_row, id_row, used = Text(bar), Text(bar), len(bar)
    style = "" if plain else _STYLES[i % 2]
    # Coloured as far as the piece goes; the rest makes room for its id.
    piece_row.append(piece, style).append(" " * (width - cells.cell_len(piece)) + bar)
    id_row.append(number.ljust(width) + bar, "" if plain else "dim")
    used += width + len(bar)
  return [*lines, piece_row, id_row]
