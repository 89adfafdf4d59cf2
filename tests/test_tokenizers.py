"""Tokenizers: round trips, one end token that no text makes, and streams of whole characters."""

import json
import random
import threading
import types

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from tokenizers import Tokenizer as Definition
from tokenizers import models, processors

from llm_jax.data import tokenizer_training, tokenizers
from llm_jax.errors import UserError

TEXTS = [
  "Once upon a time, there were 3 foxes.\n",
  "  «Füchse» \t\r\n",
  "日本語 😀\u200d😀",
  "a\0b",
]
TRAINING = TEXTS * 3 + ["the then there " * 30]
LOSSLESS = ("byte", "bpe", "wordpiece", "unigram")
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def make(name, vocab_size=300, documents=TRAINING, cache_dir=None):
  config = types.SimpleNamespace(name=name, vocab_size=vocab_size)
  return tokenizers.get(config, documents, cache_dir)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cache")
  return {name: make(name, cache_dir=folder) for name in tokenizers.KINDS}


@hypothesis.given(UNICODE)
@hypothesis.example("<|endoftext|>")
@hypothesis.example("a" * 301)  # longer than WordPiece reads words
@hypothesis.example(" \x85\u2028\ufeff\ufffd")
@hypothesis.settings(deadline=None, max_examples=150)
def test_any_text_comes_back_from_what_is_made_of_bytes(made, text):
  for name in LOSSLESS:
    assert made[name].decode(made[name].encode(text)) == text


def test_bytes_are_their_own_ids(made):
  assert made["byte"].encode("aé\n") == list("aé\n".encode())
  assert (made["byte"].vocab_size, made["byte"].end_id) == (257, 256)


def test_characters_keep_their_own_text_and_mark_all_other(made):
  for text in TEXTS:
    assert made["char"].decode(made["char"].encode(text)) == text
    assert len(made["char"].encode(text)) == len(text)
  assert made["char"].decode(made["char"].encode("then Ω")) == "then \ufffd"


def test_words_keep_white_space_and_mark_what_is_unknown(made):
  words = made["word"]
  for text in (*TEXTS, "there  the\n\t there "):
    assert words.decode(words.encode(text)) == text
  assert len(words.encode("the then there ")) == 4
  assert words.decode(words.encode("then whence there")) == "then\ufffd there"
  # The most frequent come first, after the unknown ones.
  assert words.encode("there") == [1] and words.encode("whence") == [0]
  assert make("word", vocab_size=4).vocab_size == 4


def test_bpe_has_the_size_asked_for_and_is_shorter_than_bytes(made):
  assert made["bpe"].vocab_size == 300
  assert len(made["bpe"].encode("the then there ")) < 8


@pytest.mark.parametrize("name", ["wordpiece", "unigram"])
def test_pieces_are_longer_than_bytes_and_as_many_as_asked_for(made, name, tmp_path):
  assert made[name].vocab_size <= 300
  assert len(made[name].encode("the then there ")) < 8
  documents = ["".join(random.Random(i).choices("abc de\n", k=400)) for i in range(40)]
  assert make(name, 320, documents, tmp_path).vocab_size == 320


def test_wordpiece_takes_the_longest_piece_that_fits():
  made = make("wordpiece", 262, ["abcd abcd ab abc abcd"] * 9)
  pieces = [made.decode([index]) for index in made.encode("abcdab abcab")]
  assert pieces[:2] == ["abcd", "ab"] and "".join(pieces) == "abcdab abcab"


def test_training_again_gives_the_same_tokenizer(tmp_path):
  documents = ["".join(random.Random(i).choices("abc de\n", k=400)) for i in range(40)]
  for name in ("word", "bpe", "wordpiece", "unigram"):
    once, again = (make(name, 320, documents, tmp_path / part) for part in ("once", "again"))
    assert once.sha256 == again.sha256


@pytest.mark.parametrize(("name", "least"), [("word", 3), *((n, 257) for n in LOSSLESS[1:])])
def test_a_vocabulary_too_small_is_told_the_least(name, least):
  with pytest.raises(UserError, match=f"at least {least} .*found {least - 1}"):
    make(name, vocab_size=least - 1)
  config = types.SimpleNamespace(name=name, vocab_size=least + 1)
  with pytest.raises(UserError, match=f"at least {least + 2} "):
    tokenizers.get(config, TRAINING, special=(("[MASK]",), ("[SEP]",)))


@pytest.mark.parametrize("name", tokenizers.KINDS)
def test_no_text_encodes_to_the_end_token(made, name, tmp_path):
  made[name].save(tmp_path)
  for tokenizer in (made[name], tokenizers.load(tmp_path)):
    text = "there <|endoftext|> then <|endoftext|>"
    ids = tokenizer.encode(text)
    framed = tokenizer.encode_documents([text, ""])
    assert tokenizer.end_id not in ids
    assert framed[0].tolist() == [tokenizer.end_id, *ids, tokenizer.end_id]
    assert framed[1].tolist() == [tokenizer.end_id] * 2
    assert framed[0].dtype == np.int32
    if name in LOSSLESS:
      assert tokenizer.decode(framed[0]) == text  # an end token is no text
    assert min(ids) >= 0 and max(ids) < tokenizer.vocab_size and tokenizer.end_id >= 0


@pytest.mark.parametrize("name", tokenizers.KINDS)
def test_a_saved_tokenizer_is_the_same_one(made, name, tmp_path):
  made[name].save(tmp_path / "own.json")
  loaded = make(str(tmp_path / "own.json"))
  assert (loaded.sha256, loaded.vocab_size, loaded.end_id) == (
    made[name].sha256,
    made[name].vocab_size,
    made[name].end_id,
  )
  assert all(loaded.encode(text) == made[name].encode(text) for text in TEXTS)


@pytest.mark.parametrize("name", tokenizers.KINDS)
@hypothesis.given(data=st.data())
@hypothesis.settings(deadline=None, max_examples=100)
def test_a_stream_gives_whole_characters_and_loses_nothing(made, name, data):
  tokenizer = made[name]
  some_ids = st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12)
  some_text = st.text("the😀é日\ufffd", max_size=12).map(tokenizer.encode)
  ids = data.draw(some_ids) + data.draw(some_text) + data.draw(some_ids)
  stream = tokenizer.stream()
  for _ in range(2):  # a flushed stream starts anew
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)


def test_a_text_that_goes_on_keeps_the_space_in_front(made):
  words = made["word"]
  before, more = words.encode("the then"), words.encode("the then there  the")[2:]
  assert words.decode(more) == "there  the"  # as a text of its own
  assert words.decode(more, after=[words.begin_id, *before]) == " there  the"
  stream = words.stream(after=[words.begin_id, *before])
  assert [stream.push(token) for token in more] + [stream.flush()] == [" there", " ", " the", ""]


def test_a_stream_holds_a_character_back_until_it_is_whole(made):
  stream = made["byte"].stream()
  assert [stream.push(value) for value in "a😀b".encode()] == ["a", "", "", "", "😀", "b"]
  assert [stream.push(value) for value in b"\xf0\x9f"] == ["", ""]
  assert stream.push(ord("c")) == "\ufffdc"  # no character begins like that: it is told
  assert stream.push(0xF0) + stream.flush() == "\ufffd"
  assert stream.flush() == ""


def test_training_is_cached_by_what_it_depends_on(tmp_path, monkeypatch):
  first = make("bpe", cache_dir=tmp_path)
  (kept,) = tmp_path.iterdir()
  with monkeypatch.context() as patched:
    patched.setattr(tokenizer_training.trainers, "BpeTrainer", None)  # a second training would fail
    assert make("bpe", cache_dir=tmp_path).sha256 == first.sha256
  kept.write_text(kept.read_text()[:100])  # damaged: made and kept again
  assert make("bpe", cache_dir=tmp_path).sha256 == first.sha256
  assert len(kept.read_text()) > 100
  make("bpe", vocab_size=290, cache_dir=tmp_path)
  make("bpe", documents=[*TRAINING, "more"], cache_dir=tmp_path)
  assert len(list(tmp_path.iterdir())) == 3


def test_two_may_train_at_once_and_a_folder_may_be_closed_to_writing(tmp_path):
  found = []
  threads = [
    threading.Thread(target=lambda: found.append(make("bpe", cache_dir=tmp_path).sha256))
    for _ in range(4)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(found) == 4 and len(set(found)) == 1
  assert [path.suffix for path in tmp_path.iterdir()] == [".json"]  # no temporary file is left
  (tmp_path / "file").write_text("")
  assert make("bpe", cache_dir=tmp_path / "file" / "below").sha256 == found[0]


def test_a_file_is_written_whole_or_not_at_all(made, tmp_path, monkeypatch):
  (tmp_path / "tokenizer.json").write_text("before")

  def full_disk(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(tokenizers.cache.os, "replace", full_disk)
  with pytest.raises(OSError, match="No space left"):
    made["byte"].save(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
  assert (tmp_path / "tokenizer.json").read_text() == "before"


def test_a_published_tokenizer_brings_its_own_end(made, tmp_path):
  made["bpe"].save(tmp_path)
  text = (tmp_path / "tokenizer.json").read_text().replace("<|endoftext|>", "</s>")
  (tmp_path / "tokenizer.json").write_text(text)
  tokenizer = tokenizers.load(tmp_path)
  assert tokenizer.end_id == 299 and tokenizer.vocab_size == 300
  (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "t"}}))
  assert tokenizers.load(tmp_path).end_id == tokenizer.encode("t")[0]
  (tmp_path / "tokenizer_config.json").unlink()
  (tmp_path / "tokenizer.json").write_text(text.replace("</s>", "<nothing>"))
  with pytest.raises(UserError, match="no token that ends a document"):
    tokenizers.load(tmp_path)


PUBLISHED = {"<s>": 0, "</s>": 1, "[CLS]": 2, "[SEP]": 3, "<pad>": 4, "<x>": 5, "cat": 6}


def publish(folder, settings, template=None):
  """A published folder: its definition marks nothing as special but what its template names."""
  definition = Definition(models.WordLevel(PUBLISHED, "<x>"))
  if template:
    marks = [(name, PUBLISHED[name]) for name in template.split() if name != "$A"]
    definition.post_processor = processors.TemplateProcessing(template, special_tokens=marks)
    definition.enable_padding(length=9)
  definition.save(str(folder / "tokenizer.json"))
  for name, content in settings.items():
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
  return tokenizers.load(folder)


@pytest.mark.parametrize(
  ("settings", "template", "marks"),
  [
    ({}, None, ("</s>", "</s>")),
    ({"bos_token": "<s>", "eos_token": "</s>", "cls_token": "[CLS]"}, None, ("<s>", "</s>")),
    ({"bos_token": {"content": "<s>"}}, None, ("<s>", "</s>")),
    ({"cls_token": "[CLS]", "sep_token": "[SEP]"}, None, ("[CLS]", "[SEP]")),
    ({"bos_token": None, "eos_token": "</s>"}, None, ("</s>", "</s>")),
    ({"bos_token": "<nothing>", "add_bos_token": True}, None, ("</s>", "</s>")),
    ({}, "<s> $A </s>", ("<s>", "</s>")),  # a file alone tells what stands before a text,
    ({"bos_token": "<s>"}, "$A </s>", ("</s>", "</s>")),  # or that nothing does
  ],
)
def test_a_published_tokenizer_has_its_own_tokens_around_a_text(
  tmp_path, settings, template, marks
):
  tokenizer = publish(tmp_path, {"tokenizer_config.json": settings}, template)
  begin, end = (PUBLISHED[name] for name in marks)
  vocabulary = tokenizer.vocabulary
  assert (tokenizer.begin_id, tokenizer.end_id) == (begin, end)
  assert (vocabulary.begin_id, vocabulary.end_id) == (begin, end)
  assert {begin, end} <= {index for _, index in vocabulary.special}
  assert tokenizer.encode_documents(["cat"])[0].tolist() == [begin, 6, end]
  assert tokenizer.decode([begin, 6, end]) == tokenizer.decode([begin, 6, end], special=True)
  larger = tokenizer.extended((("<mask>",),))
  assert (larger.begin_id, larger.end_id, larger.vocab_size) == (begin, end, 8)


def test_settings_go_where_the_tokenizer_goes_and_are_not_changed(tmp_path):
  old, new = tmp_path / "old", tmp_path / "new"
  old.mkdir()
  new.mkdir()
  named = {"bos_token": "<s>", "pad_token": "<pad>", "chat_template": "{{ x }}", "unk_token": "<x>"}
  settings = {
    "tokenizer_config.json": json.dumps(named, indent=3) + "\r\n",
    "special_tokens_map.json": {"eos_token": "</s>", "bos_token": "[CLS]"},
    "chat_template.jinja": "{{ äöü }}",
  }
  tokenizer = publish(old, settings)
  assert (tokenizer.begin_id, tokenizer.end_id, tokenizer.pad_id) == (0, 1, 4)
  tokenizer.extended((("<mask>",),)).save(new / "tokenizer.json")
  for name in settings:
    assert (old / name).read_bytes() == (new / name).read_bytes()
  tokenizer.save(new)
  again = tokenizers.load(new)
  assert (again.sha256, again.begin_id) == (tokenizer.sha256, 0)
  (new / "tokenizer_config.json").unlink()
  assert tokenizers.load(new).sha256 != tokenizer.sha256  # other tokens: another tokenizer
  (new / "special_tokens_map.json").write_text("[1]")
  assert tokenizers.load(new).begin_id == 1


def test_special_tokens_are_shown_where_they_are_asked_for(made):
  tokenizer = made["byte"].extended((("<0>",), ("<1>",)))
  zero, one = (tokenizer.vocabulary.id_of((name,)) for name in ("<0>", "<1>"))
  ids = [tokenizer.end_id, zero, *tokenizer.encode("é"), one, 97, tokenizer.end_id]
  assert tokenizer.decode(ids) == "éa"
  assert tokenizer.decode(ids, special=True) == "<0>é<1>a"
  stream = tokenizer.stream(special=True)
  assert "".join(map(stream.push, ids)) + stream.flush() == "<0>é<1>a"


@pytest.mark.parametrize("name", ["byte", "bpe", "wordpiece", "unigram"])
def test_gaps_are_written_by_name_and_no_other_special_token_is(made, name):
  mask, first, other = "[MASK]", "<extra_id_0>", "<extra_id_12>"
  plain = made[name]
  tokenizer = plain.extended(((mask,), (other,), (first,), ("[CLS]",)))
  ids = dict(tokenizer.vocabulary.special)
  text = f"{first}then  {other} there{mask} "
  then, there = plain.encode("then"), plain.encode(" there")
  expected = [ids[first], *then, ids[other], *there, ids[mask], *plain.encode(" ")]
  assert tokenizer.encode_with_gaps(text) == expected
  for text in ("then there", "[CLS] then <|endoftext|>", ""):
    assert tokenizer.encode_with_gaps(text) == plain.encode(text)
  assert plain.encode_with_gaps(text) == plain.encode(text)  # which has no gaps
  assert tokenizer.decode(expected, special=True) == f"{first}then{other} there{mask} "


def test_a_wrong_name_or_file_is_told(tmp_path):
  with pytest.raises(UserError, match="Did you mean 'bpe'"):
    make("bpee")
  with pytest.raises(UserError, match=r"No tokenizer at .*missing\.json"):
    make(str(tmp_path / "missing.json"))
  with pytest.raises(UserError, match=r"No tokenizer at .*tokenizer\.json"):
    make(str(tmp_path))
  (tmp_path / "tokenizer.json").write_text('{"half": ')
  with pytest.raises(UserError, match=r"is not a tokenizer\.json"):
    make(str(tmp_path))
  for name in tokenizers.KINDS[1:]:
    with pytest.raises(UserError, match="found no text"):
      make(name, documents=[""])
