"""Reading corpora: what a document is, what a split keeps, and what each bad file is told."""

import gzip
import json
import random
import subprocess
import sys
import types

import pyarrow
import pyarrow.parquet
import pytest

from llm_jax.data import corpora, embedded
from llm_jax.errors import UserError


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return tmp_path / "cache" / "llm_jax"


def test_the_embedded_corpus_is_two_megabytes_of_distinct_documents(own_cache):
  corpus = corpora.load("")
  assert 1_500_000 < corpus.num_bytes < 3_500_000
  assert len(corpus.documents) > 400
  text = "\n".join(corpus.documents)
  assert 'The "with" statement' in text  # a topic
  assert "Serialize ``obj`` to a JSON formatted ``str``" in text  # a docstring
  paragraphs = [part for part in text.split("\n\n") if len(part) > 500]
  assert len(set(paragraphs)) == len(paragraphs) > 200
  assert corpus.num_bytes == len("".join(corpus.documents).encode())


def test_the_embedded_corpus_is_the_same_in_another_process_and_from_its_cache(own_cache):
  made = corpora.load("")
  assert [path.suffix for path in own_cache.iterdir()] == [".json"]
  assert corpora.load("").sha256 == made.sha256
  for path in own_cache.iterdir():
    path.write_text('["half a fi')  # a damaged cache is made anew
  program = "from llm_jax.data import corpora; print(corpora.load('').sha256)"
  run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
  assert run.stdout.strip() == made.sha256


def test_a_docstring_stands_under_its_name_in_source_order(tmp_path):
  (tmp_path / "tests").mkdir()
  (tmp_path / "tests" / "skipped.py").write_text('"""A fixture."""')
  (tmp_path / "one.py").write_text(
    '"""One."""\nclass A:\n  """A."""\n  def f(self):\n    "\\d is no escape"\n'
    '  def g(self):\n    """A."""\nif True:\n  def h():\n    """H."""\n'
  )
  found = embedded._modules(tmp_path, list(embedded._sources(tmp_path)))
  assert found == ["one\n\nOne.\n\nA\n\nA.\n\nA.f\n\n\\d is no escape\n\nh\n\nH.\n"]


def make(documents):
  return corpora._corpus("made", documents)


def test_a_split_follows_content_and_not_place():
  documents = [f"document {n}" for n in range(200)] + ["document 7"] * 20
  training, validation = corpora.split(make(documents), 0.1, seed=3)
  assert sorted(training.documents + validation.documents) == sorted(documents)
  assert not set(training.documents) & set(validation.documents)  # equal ones on one side
  assert len(set(validation.documents)) == 20
  shuffled = random.Random(0).sample(documents, len(documents))
  again = corpora.split(make(shuffled), 0.1, seed=3)[1]
  assert set(again.documents) == set(validation.documents)
  other = corpora.split(make(documents), 0.1, seed=4)[1]
  assert set(other.documents) != set(validation.documents)


@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
def test_a_split_leaves_neither_side_empty(fraction):
  training, validation = corpora.split(make(["a", "b"]), fraction, seed=0)
  assert training.num_bytes == validation.num_bytes == 1


def test_a_split_of_one_document_or_by_no_fraction_is_refused():
  with pytest.raises(UserError, match="one document"):
    corpora.split(make(["a", "a"]), 0.1, 0)
  for fraction in (0, 1, -0.1):
    with pytest.raises(UserError, match="between 0 and 1"):
      corpora.split(make(["a", "b"]), fraction, 0)


def test_passages_join_to_the_text_and_end_at_blank_lines():
  paragraphs = [f"Paragraph {n}.\n" + "word word\n" * (n % 40) for n in range(1500)]
  text = "\n".join(paragraphs)
  found = corpora.passages(text)
  assert "".join(found) == text
  assert all(2000 <= len(passage) <= 4000 for passage in found[:-1])
  assert all(passage.endswith("\n\n") for passage in found[:-1])
  lines = "name\n" * 30000
  assert "".join(corpora.passages(lines)) == lines
  assert all(passage.endswith("\n") for passage in corpora.passages(lines))
  assert len(corpora.passages("short text, " * 50)) > 2  # a small file still has parts to hold out
  assert {len(passage) for passage in corpora.passages("x" * 100_000)} == {4000}


def test_the_same_documents_come_from_every_format(tmp_path):
  documents = ["one\n\nparagraph", "zwei: äöü \u2028 line", "drei"]
  lines = "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n\n" for t in documents)
  (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
  (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
  marked = corpora.END_OF_TEXT.join(f"{text}\n" for text in documents)
  (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + marked.replace("\n", "\r\n").encode())
  (tmp_path / "a.txt.gz").write_bytes(gzip.compress(marked.encode()))
  pyarrow.parquet.write_table(pyarrow.table({"text": documents}), tmp_path / "a.parquet")
  for name in ("a.jsonl", "a.jsonl.gz", "a.txt", "a.txt.gz", "a.parquet"):
    assert corpora.load(str(tmp_path / name)).documents == documents, name
  assert corpora.load(str(tmp_path / "a.*")).documents == documents * 5


def test_a_glob_is_read_in_the_order_of_its_names(tmp_path, monkeypatch):
  for name in ("c", "a", "b"):
    (tmp_path / f"{name}.txt").write_text(name)
  listed = [str(tmp_path / f"{name}.txt") for name in ("b", "c", "a")]
  monkeypatch.setattr(corpora.glob, "glob", lambda *_, **__: listed)
  assert corpora.load(str(tmp_path / "*.txt")).documents == ["a", "b", "c"]


def test_a_real_text_without_marks_keeps_every_character(shared_folder):
  file = shared_folder / "data/text/tinyshakespeare/input.txt"
  corpus = corpora.load(str(file))
  assert "".join(corpus.documents) == file.read_text()
  assert corpus.num_bytes == 1_115_394
  validation = corpora.split(corpus, 0.05, 0)[1]
  assert 0.04 < validation.num_bytes / corpus.num_bytes < 0.06


def test_the_fingerprint_counts_borders():
  assert corpora.fingerprint(["ab", "c"]) != corpora.fingerprint(["a", "bc"])


def parquet_bytes(table):
  sink = pyarrow.BufferOutputStream()
  pyarrow.parquet.write_table(pyarrow.table(table), sink)
  return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
  ("name", "data", "message"),
  [
    ("empty.txt", b"", r"empty \(0 bytes\)"),
    ("blank.txt", b" \n\n", "is empty"),
    ("marks.txt", b"<|endoftext|>\n<|endoftext|>", "holds no text"),
    ("binary.txt", b"text\0more", "NUL byte at offset 4"),
    ("latin.txt", "schön ist".encode("latin-1"), "not UTF-8.*byte 3"),
    ("cut.txt.gz", gzip.compress(b"text" * 100, mtime=0)[:-12], "not a whole gzip"),
    ("plain.txt.gz", b"text", "not a whole gzip"),
    ("a.jsonl", b'{"text": "x"}\n\n{"content": 1, "id": 2}', "line 3 .*'content', 'id'"),
    ("b.jsonl", b'{"text": "x"}\n{"text": "y"', "line 2 is not JSON"),
    ("c.jsonl", b'["text"]', "line 1: expected an object.*list"),
    ("d.jsonl", b'{"text": 3}', "line 1: `text` must be a string, found int"),
    ("e.jsonl", rb'{"text": "\ud800"}', "surrogate"),
    ("f.jsonl", b'{"text": " "}', "holds no text"),
    ("a.parquet", b"PAR0", "not a readable Parquet"),
    ("b.parquet", parquet_bytes({"body": ["x"]}), "Columns found: body"),
    ("c.parquet", parquet_bytes({"text": ["x", None]}), "row 1: .*NoneType"),
  ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, name, data, message):
  (tmp_path / name).write_bytes(data)
  with pytest.raises(UserError, match=message) as caught:
    corpora.load(str(tmp_path / name))
  assert name in str(caught.value)


def test_a_missing_file_is_answered_with_the_nearest_name(tmp_path):
  (tmp_path / "shakespeare.txt").write_text("text")
  with pytest.raises(UserError, match=r"Did you mean .*shakespeare\.txt"):
    corpora.load(str(tmp_path / "shakespear.text"))
  with pytest.raises(UserError, match=r"holds shakespeare\.txt"):
    corpora.load(str(tmp_path / "*.jsonl"))
  with pytest.raises(UserError, match=r"no folder .*nowhere"):
    corpora.load(str(tmp_path / "nowhere" / "a.txt"))
  with pytest.raises(UserError, match="is a folder"):
    corpora.load(str(tmp_path))


def test_datasets_gets_name_config_and_split(monkeypatch):
  calls = []

  class Table(dict):
    column_names = ("text", "id")

  def load_dataset(*args, **options):
    calls.append((*args, options["split"]))
    return Table(text=["one", "", "two"])

  monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
  assert corpora.load("datasets:stories").documents == ["one", "two"]
  corpora.load("datasets:org/wikitext/raw-v1:validation[:10%]")
  assert calls == [
    ("stories", None, "train"),
    ("org/wikitext", "raw-v1", "validation[:10%]"),
  ]
  monkeypatch.setitem(sys.modules, "datasets", None)
  with pytest.raises(UserError, match="pip install datasets"):
    corpora.load("datasets:stories")
