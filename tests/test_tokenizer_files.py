"""Tokenizers of published checkpoints: the very ids that their own programs give, and back."""

import gzip
import html
import io
import json
import re
import shutil
import unicodedata
from pathlib import Path

import hypothesis
import pytest
import sentencepiece
from hypothesis import strategies as st

from llm_jax import command_line
from llm_jax.data import tokenizers
from llm_jax.data.special_tokens import MASK, SENTINELS
from llm_jax.data.world_vocabulary import WorldVocabulary
from llm_jax.errors import UserError

UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
PUBLISHED = {
  "gpt2": "gpt2",
  "bert": "bert/vocab.txt",
  "t5": "t5",
  "mistral": "mistral/tokenizer.model.v1",
  "rwkv": "rwkv",
}
# Descriptions of file types in some fifty languages, on most computers that run Linux.
FILE_TYPES = Path("/usr/share/mime/packages/freedesktop.org.xml")


@pytest.fixture(scope="module")
def published():
  """The tokenizers of the shared folder, each read once."""
  return {}


def get(published, shared_folder, name):
  if name not in published:
    published[name] = tokenizers.load(shared_folder / "tokenizers" / PUBLISHED[name])
  return published[name]


def world_pieces(shared_folder):
  file = shared_folder / "tokenizers/rwkv/rwkv_vocab_v20230424.txt"
  found = WorldVocabulary.from_file(file.read_text(encoding="utf-8"))
  texts = (found.decode([i]) for i in sorted(found.get_vocab(with_added_tokens=False).values()))
  return [text for text in texts if "\ufffd" not in text and "\n" not in text]


@pytest.fixture(scope="module")
def lines():
  """Makes ten thousand lines in several scripts out of the shared folder."""
  made = []

  def make(shared_folder):
    if not made:
      data = shared_folder / "data"
      for file in ("text/kjv/kjv.txt.gz", "translation/multi30k/train.de.gz"):
        text = gzip.decompress((data / file).read_bytes()).decode()
        made.extend([line for line in text.split("\n") if line][::20])
      if FILE_TYPES.exists():
        marked = re.findall(r'xml:lang="[^"]+">([^<\n]+)<', FILE_TYPES.read_text(encoding="utf-8"))
        made.extend(map(html.unescape, marked[::7]))
      words = world_pieces(shared_folder)[20000:]  # most of them Cyrillic, Han, Kana, Hangul
      step, at = 5, 0
      while len(made) < 10_000:
        made.append("".join(words[at : at + step]))
        at = (at + step) % (len(words) - step)
      del made[10_000:]
    return made

  return make


@pytest.mark.parametrize(("name", "case"), [("gpt2", "gpt-2"), ("bert", "bert-bge")])
def test_every_published_case_is_read_right(published, shared_folder, name, case):
  file = str(shared_folder / f"tokenizers/vectors/ggml-vocab-{case}.gguf")
  texts = Path(file + ".inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
  ids = [[int(i) for i in row.split()] for row in Path(file + ".out").read_text().split("\n")]
  assert len(texts) == len(ids) > 40
  assert [get(published, shared_folder, name).encode(text) for text in texts] == ids


def test_ten_thousand_lines_in_several_scripts_come_back(published, shared_folder, lines):
  texts = lines(shared_folder)
  scripts = {unicodedata.name(c, "?").split()[0] for text in texts for c in text if c.isalpha()}
  assert {"LATIN", "CYRILLIC", "CJK", "HANGUL", "HIRAGANA", "ARABIC", "GREEK"} <= scripts
  for name in ("mistral", "rwkv", "gpt2"):
    tokenizer = get(published, shared_folder, name)
    encoded = tokenizer.encode_documents(texts)
    assert [tokenizer.decode(ids) for ids in encoded] == texts


def test_t5_gives_back_what_its_vocabulary_covers_in_its_normal_form(
  published, shared_folder, lines
):
  tokenizer = get(published, shared_folder, "t5")
  texts = lines(shared_folder)
  unknown = tokenizer.vocabulary.id_of(("<unk>",))
  encoded = [(tokenizer.encode(text), text) for text in texts]
  covered = [(ids, text) for ids, text in encoded if unknown not in ids]
  assert len(covered) > 2500
  for ids, text in covered:  # NFKC, and white space is one space between words
    assert tokenizer.decode(ids) == " ".join(unicodedata.normalize("NFKC", text).split())


@pytest.mark.parametrize(
  ("name", "file"), [("t5", "t5-base.spiece.model"), ("mistral", "tokenizer.model.v1")]
)
def test_ids_are_those_of_sentencepiece(published, shared_folder, lines, name, file):
  model = str(shared_folder / "tokenizers" / name / file)
  own = sentencepiece.SentencePieceProcessor(model_file=model)
  tokenizer = get(published, shared_folder, name)
  special = "a </s> <s> <unk> <pad> <0x41> b"
  texts = [*lines(shared_folder)[::4], special, "", " a  b\n\tc ", "\u2581"]
  differ = [text for text in texts if tokenizer.encode(text) != own.encode(text)]
  assert len(differ) <= len(texts) / 1000, differ[:5]  # ties of scores
  assert not {special, ""} & set(differ)


def test_ids_are_those_of_the_official_world_tokenizer(published, shared_folder, lines):
  official = pytest.importorskip("rwkv.rwkv_tokenizer")
  file = shared_folder / "tokenizers/rwkv/rwkv_vocab_v20230424.txt"
  own = official.TRIE_TOKENIZER(str(file))
  tokenizer = get(published, shared_folder, "rwkv")
  assert all(tokenizer.encode(text) == own.encode(text) for text in lines(shared_folder)[::25])


def trained(folder, **options):
  """A small sentencepiece model of the wanted kind, and its file."""
  text = ["the cat sat on the mat  and thus it sat, said the cat: hat, mat, bat"] * 9
  made = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([*text, "eine Füchsin"]), model_writer=made, minloglevel=2, **options
  )
  file = folder / "spiece.model"
  file.write_bytes(made.getvalue())
  return sentencepiece.SentencePieceProcessor(model_proto=made.getvalue()), file


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("byte_fallback", [True, False])
def test_a_sentencepiece_model_of_our_own_reads_as_itself(kind, byte_fallback, tmp_path):
  size = 60 + 256 * byte_fallback
  if kind == "unigram":
    options = {"hard_vocab_limit": False}
  else:
    options = {"user_defined_symbols": ["<turn>", "\n", "\u2581\u2581"]}
  own, file = trained(
    tmp_path,
    model_type=kind,
    vocab_size=size,
    byte_fallback=byte_fallback,
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    normalization_rule_name="identity",
    **options,
  )
  tokenizer = tokenizers.load(file)

  @hypothesis.given(
    st.lists(st.sampled_from(["the", " c", "at", " ", "<turn>", "\n", "<s>", "é日"]))
  )
  @hypothesis.settings(deadline=None, max_examples=60)
  def check(parts):
    text = "".join(parts)
    assert tokenizer.encode(text) == own.encode(text)
    if byte_fallback:
      assert tokenizer.decode(own.encode(text)) == text

  check()
  if kind == "unigram":
    options |= {"vocab_size": 50, "user_defined_symbols": ["<turn>"]}
    _, file = trained(tmp_path, model_type=kind, **options)
    with pytest.raises(UserError, match=r"of the user's own such as \['<turn>'\]"):
      tokenizers.load(file)


@pytest.mark.parametrize("name", PUBLISHED)
@hypothesis.given(data=st.data())
@hypothesis.settings(
  deadline=None,
  max_examples=60,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_a_stream_gives_whole_characters_and_loses_nothing(published, shared_folder, name, data):
  tokenizer = get(published, shared_folder, name)
  bytes_first = st.integers(0, 300)  # where the bytes are, of all but BERT
  some_ids = st.lists(st.integers(0, tokenizer.vocab_size - 1) | bytes_first, max_size=9)
  ids = data.draw(some_ids) + data.draw(UNICODE.map(tokenizer.encode)) + data.draw(some_ids)
  stream = tokenizer.stream()
  assert "".join([stream.push(i) for i in ids]) + stream.flush() == tokenizer.decode(ids)
  text = data.draw(UNICODE)
  ids = tokenizer.encode(text)
  pieces = [stream.push(i) for i in ids]
  assert "\ufffd" not in "".join(pieces) or "\ufffd" in text
  assert not {tokenizer.begin_id, tokenizer.end_id} & set(ids)
  if name in ("gpt2", "mistral", "rwkv"):
    assert "".join(pieces) + stream.flush() == text


def test_a_whole_character_survives_the_half_one_behind_it(published, shared_folder):
  tokenizer = get(published, shared_folder, "mistral")
  half = tokenizer.encode("\U0001f9ff")[1:3]  # a character of four byte tokens
  whole = tokenizer.encode("\U0001f9ff")[1:]
  assert len(whole) == 4
  assert tokenizer.decode(whole + half) == "\U0001f9ff\ufffd"


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_saved_copy_is_the_same_tokenizer(published, shared_folder, name, tmp_path):
  tokenizer = get(published, shared_folder, name)
  for made in (tokenizer, tokenizer.extended((MASK, *SENTINELS))):
    made.save(tmp_path)
    again = tokenizers.load(tmp_path)
    assert again.sha256 == made.sha256 and again.vocabulary == made.vocabulary
    assert (again.pad_id, again.settings) == (made.pad_id, made.settings)
    text = "Füchse, 日本語 </s> [MASK] <extra_id_3>"
    assert again.encode(text) == made.encode(text) == tokenizer.encode(text)
    mask = made.vocabulary.id_of(MASK) if made is not tokenizer else None
    assert mask is None or made.decode([mask], special=True) in MASK


def test_special_tokens_of_published_vocabularies_are_found(published, shared_folder):
  t5, bert, mistral, rwkv = (
    get(published, shared_folder, name) for name in ("t5", "bert", "mistral", "rwkv")
  )
  assert (t5.begin_id, t5.end_id, t5.pad_id) == (1, 1, 0)
  assert (bert.begin_id, bert.end_id, bert.pad_id) == (101, 102, 0)
  assert (mistral.begin_id, mistral.end_id) == (1, 2)
  assert (rwkv.begin_id, rwkv.end_id, rwkv.vocab_size) == (0, 0, 65530)
  assert t5.extended(SENTINELS).vocabulary.id_of(("<extra_id_0>",)) == 32099  # as published


def vocabulary_of(folder, words, **settings):
  (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]) + "\n")
  if settings:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  return tokenizers.load(folder)


def test_letters_are_lowered_if_the_settings_or_the_vocabulary_say_so(tmp_path):
  assert vocabulary_of(tmp_path, ["cat", "##s"]).encode("Cats") == [4, 5]
  assert vocabulary_of(tmp_path, ["cat", "Cat", "##s"]).encode("Cats cat") == [5, 6, 4]
  assert vocabulary_of(tmp_path, ["cat"], do_lower_case=False).encode("Cat") == [1]
  assert vocabulary_of(tmp_path, ["cat", "Cat"], do_lower_case=True).encode("Cat") == [4]


def test_mistakes_are_told(tmp_path, shared_folder, capsys):
  source = shared_folder / "tokenizers"
  shutil.copy(source / "bert/vocab.txt", tmp_path)
  shutil.copy(source / "t5/t5-base.spiece.model", tmp_path)
  with pytest.raises(UserError, match=r"several tokenizers: t5-base.spiece.model, vocab.txt\."):
    tokenizers.load(tmp_path)
  assert tokenizers.load(tmp_path / "vocab.txt").vocab_size == 30522
  cases = {
    "sentencepiece.bpe.model": ("x", "another number"),
    "broken.model": ("no model", "is not a sentencepiece model"),
    "empty.model": ("", "is no sentencepiece model"),
    "words.txt": ("a\nb\n", "is no WordPiece vocabulary"),
    "rwkv_vocab_x.txt": ("1 'a' 1\n2 'bc' 3\n", "line 2, .*has 2 bytes"),
    "rwkv_vocab_y.txt": ("1 'a' 1\n", "of the 256 bytes, 255 are no pieces"),
    "merges.txt": ("", "belong together; there is no vocab.json"),
    "own.json": ('{"model": {"type": "LongestMatch"}}', "is not a tokenizer.json"),
  }
  for name, (content, message) in cases.items():
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
      tokenizers.load(tmp_path / name)
  with pytest.raises(UserError, match=r"No tokenizer at .*Expected a tokenizer\.json"):
    tokenizers.load(tmp_path / "missing.model")
  (tmp_path / "vocab.json").write_text('{"a</w>": 0}')
  with pytest.raises(UserError, match="not of byte-level BPE"):
    tokenizers.load(tmp_path / "vocab.json")


def test_import_takes_the_tokenizer_beside_the_weights(shared_folder, tmp_path, capsys):
  weights, files = tmp_path / "published", {}
  weights.mkdir()
  for file in ("config.json", "model.safetensors"):
    shutil.copy(shared_folder / "checkpoints/stories260K" / file, weights)
  _, files["spiece.model"] = trained(tmp_path, vocab_size=60, hard_vocab_limit=False)
  (tmp_path / "bert").mkdir()
  vocabulary_of(tmp_path / "bert", ["once", "up", "##on"])
  files["vocab.txt"] = tmp_path / "bert/vocab.txt"
  pieces = [*(bytes([value]) for value in range(256)), b"once", b"on"]
  files["rwkv_vocab_small.txt"] = tmp_path / "small.txt"
  rows = (f"{i} {piece!r} {len(piece)}\n" for i, piece in enumerate(pieces, 1))
  files["rwkv_vocab_small.txt"].write_text("".join(rows))
  for name, file in files.items():
    shutil.copy(file, weights / name)
    run = tmp_path / f"run_{name}"
    assert command_line.main(["import", f"--from={weights}", f"--workdir={run}"]) == 0
    assert tokenizers.load(run).encode("once on") == tokenizers.load(weights).encode("once on")
    assert "it has no tokenizer" not in capsys.readouterr().out
    (weights / name).unlink()
  shutil.copy(shared_folder / "tokenizers/bert/vocab.txt", weights)
  assert command_line.main(["import", f"--from={weights}", f"--workdir={tmp_path}/big"]) == 2
  assert "but the tokenizer has 30522 ids" in capsys.readouterr().err
