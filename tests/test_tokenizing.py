"""`launch.py tokenizer`: what it trains, and how it shows the pieces of a text."""

import io
import pathlib
import types

import pytest
from rich.console import Console

from llm_jax import command_line, tokenizing
from llm_jax import config as config_schema
from llm_jax.data import tokenizers
from llm_jax.data.special_tokens import MASK
from llm_jax.training import inputs

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = "the hat of the cat, and the mat of the bat;\nthat is all of it"


def run(capsys, *argv):
  code = command_line.main(["tokenizer", *argv])
  captured = capsys.readouterr()
  return code, captured.out, captured.err


@pytest.fixture
def config(tmp_path, monkeypatch):
  """The flags of an experiment whose objective needs a mask, on a text of its own."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  (tmp_path / "text.txt").write_text("\n\n".join(f"{TEXT} {i}" for i in range(300)))
  return f"--config={ROOT}/experiments/bert.py:tiny", f"--config.data.path={tmp_path}/text.txt"


def test_a_tokenizer_is_trained_with_what_its_objective_needs(config, tmp_path, capsys):
  for name in ("unigram", "word"):
    size, folder = 40 if name == "word" else 290, tmp_path / name
    code, out, _ = run(capsys, *config, f"--vocab-size={size}", f"--name={name}", f"--to={folder}")
    assert code == 0
    made = tokenizers.load(folder)
    assert made.vocab_size == size and made.vocabulary.id_of(MASK) < size
    assert made.decode(made.encode(TEXT)) == TEXT
    assert out.startswith(f"{folder}/tokenizer.json: {name}, {size} ids; ")
    (held_out, _), *_ = inputs.load_text(config_schema.load(config[0][9:], [config[1]])).validation
    tokens = sum(len(made.encode(document)) for document in held_out.documents)
    assert f" {held_out.num_bytes / tokens:.2f} bytes per token of the {held_out.num_bytes} " in out
  code, out, _ = run(capsys, *config, "--vocab-size=900", "--name=word", f"--to={tmp_path}/more")
  assert code == 0 and "(of 900 asked for: its text has no more)" in out


def test_mistakes_in_training_are_told(config, tmp_path, capsys):
  to = f"--to={tmp_path}/new"
  (tmp_path / "tokenizer.json").write_text("{}")
  for flags, message in (
    ((*config, "--name=bpee", to), "Did you mean 'bpe'"),
    ((*config, "--name=bpe", "--vocab-size=200", to), "at least 25"),
    ((*config, "--name=byte", "--vocab-size=200", to), "an id for each byte"),
    ((*config, f"--to={tmp_path}"), "nothing is overwritten"),
    ((*config,), "--to=FOLDER"),
    ((to,), "--config=FILE"),
    ((*config, to, "--tokenizer=byte"), "training takes --name"),
    (("shew", "text"), "tokenizer show TEXT"),
    (("show", "one", "two"), "the text in quotes"),
    (("show", "one", to), "show takes --tokenizer"),
    (("show", "", "--tokenizer=byte"), "no text to show"),
    (("show", "one", "--tokenizer=nowhere"), "Unknown tokenizer 'nowhere'"),
  ):
    code, out, err = run(capsys, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
  assert not (tmp_path / "new").exists()


def test_pieces_stand_between_bars_over_their_ids(config, tmp_path, capsys):
  flags = ("--tokenizer=byte", "--tokenizer=word", *config)
  code, out, _ = run(capsys, "show", "the cat é\n", *flags)
  assert code == 0
  lines = [line.rstrip() for line in out.splitlines()]
  assert "│t  │h  │e  │␣ │c │a │t  │␣ │…  │é  │↵ │" in lines
  assert "│116│104│101│32│99│97│116│32│195│169│10│" in lines
  wanted = types.SimpleNamespace(name="word", vocab_size=1024)
  made = tokenizers.get(wanted, [f"{TEXT} {i}" for i in range(300)])
  assert "│the│␣cat│\ufffd│↵│" in "".join(lines).replace(" ", "")
  rows = [line.split() for line in lines]
  # Ids, tokens, bytes per token of 11 bytes, tokens per word of 3 words.
  assert ["byte", "257", "11", "1.00", "3.67"] in rows
  tokens = len(made.encode("the cat é\n"))
  (numbers,) = [row[2:] for row in rows if row[:1] == ["word"] and len(row) > 1]
  assert numbers == [str(tokens), f"{11 / tokens:.2f}", f"{tokens / 3:.2f}"]


def test_on_a_terminal_neighbours_differ_in_colour_and_rows_fit():
  console = Console(file=io.StringIO(), force_terminal=True, width=40, color_system="truecolor")
  tokenizing.show("some letters " * 9, ["byte"], config_schema.base(), console)
  out = console.file.getvalue()
  assert "│" not in out
  first, second = "\x1b[30;48;2;155;211;245ms", "\x1b[30;48;2;255;210;127mo"
  assert first in out and second in out
  plain = Console(file=io.StringIO(), width=40)
  tokenizing.show("some letters " * 9, ["byte"], config_schema.base(), plain)
  rows = [line for line in plain.file.getvalue().split("\n") if line.startswith("│")]
  assert len(rows) > 10 and max(map(len, rows)) <= 40
