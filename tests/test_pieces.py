"""Pieces as they stand in a text: where words and sentences begin, for each kind of tokenizer."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from tokenizers import Tokenizer as Definition
from tokenizers import decoders, models, pre_tokenizers

from llm_jax.data import tokenizers
from llm_jax.data.tokenizers import Tokenizer

TEXT = 'Playing unbelievably, he said: "I\'m done." Naïve dogs (went home!) Then'
WORDS = ["Playing", "unbelievably", "he", "said", "I", "m", "done", "Naïve", "dogs", "went"]
WORDS += ["home", "Then"]


def wordpiece():
  """Bare letters begin words, those behind ## go on with them."""
  letters = sorted(set(TEXT) - {" "})
  ids = {"[UNK]": 0, "[SEP]": 1, "##ing": 2, "un": 3, "dogs": 4}
  ids |= {piece: 5 + i for i, piece in enumerate([*letters, *("##" + x for x in letters)])}
  definition = Definition(models.WordPiece(ids, unk_token="[UNK]"))
  definition.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  definition.decoder = decoders.WordPiece()
  return Tokenizer(definition, end="[SEP]")


def words_of(tokenizer, ids):
  """The runs of letters, by where the vocabulary says that they begin."""
  vocabulary = tokenizer.vocabulary
  found = []
  for token, first in zip(ids, vocabulary.begins_word(np.array(ids)), strict=True):
    found += [[]] if first else []
    found[-1].append(token)
  texts = ["".join(vocabulary.pieces[token] for token in word).strip() for word in found]
  return [tokenizer.decode(word).strip() for word, text in zip(found, texts, strict=True) if text]


@pytest.mark.parametrize("name", ["byte", "char", "word", "bpe", "wordpiece", "unigram", "##"])
def test_words_are_found_whatever_marks_a_tokenizer_has(name, tmp_path):
  if name == "##":
    tokenizer = wordpiece()
  else:
    config = ConfigDict({"name": name, "vocab_size": 300})
    tokenizer = tokenizers.get(config, [TEXT], tmp_path)
  found = [word for word in words_of(tokenizer, tokenizer.encode(TEXT)) if word[-1].isalnum()]
  expected = WORDS if name != "word" else [w for w in WORDS if w not in ("I", "m")] + ["I'm"]
  assert sorted(word.strip("\"'") for word in found) == sorted(expected)


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5", "mistral", "rwkv"])
def test_published_vocabularies_tell_words_and_sentences_too(name, shared_folder):
  tokenizer = tokenizers.load(shared_folder / "tokenizers" / name)
  text = "Unbelievably. \u201cYes!\u201d he said, wordsmithing"
  ids = tokenizer.encode(text)
  found = [word.lower() for word in words_of(tokenizer, ids)]
  assert {"unbelievably", "he", "said", "wordsmithing"} <= set(found)
  ends = [tokenizer.vocabulary.pieces[t] for t in ids if tokenizer.vocabulary.ends_sentence([t])[0]]
  assert len(ends) == 2 and ends[0].strip()[0] == "." and ends[1].strip()[0] == "!"


def test_a_sentence_ends_with_its_stop_and_the_quotes_behind_it():
  vocabulary = tokenizers.Vocabulary(
    8, pieces=("a", " b.", '."', "?)", " 3.5", "!\n", "", "\u3002")
  )
  ends = vocabulary.ends_sentence(np.arange(8))
  assert ends.tolist() == [False, True, True, True, False, True, False, True]
