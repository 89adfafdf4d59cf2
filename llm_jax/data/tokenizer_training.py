"""The tokenizers that are made from training text, and the byte tokenizer, which needs none.

  byte       256 values
  char       the characters of the text; all others are one unknown character
  word       its most frequent words; all others are one unknown character
  bpe        pieces of bytes, merged by frequency (Sennrich et al. 2016, arXiv:1508.07909)
  wordpiece  such merges again; the longest known piece is taken first, then the longest of the rest
             (Devlin et al. 2018, arXiv:1810.04805)
  unigram    the likeliest pieces, of the likeliest pieces (Kudo 2018, arXiv:1804.10959)

Byte, bpe, wordpiece and unigram give back every text as it was: their letters are the 256 bytes. So
there is no unknown piece, no ## and no lower-casing, and bits per byte can be compared. Char and
word give back white space and known text as they were, and U+FFFD for what is unknown.
"""

import collections
import hashlib
import io
import logging
import os
import random
from collections.abc import Sequence

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from llm_jax.data import cache, corpora
from llm_jax.data.tokenizer_files import UNKNOWN, score, sentencepiece_model
from llm_jax.errors import UserError

logger = logging.getLogger(__name__)

KINDS = ("byte", "char", "word", "bpe", "wordpiece", "unigram")
UNKNOWN_CHARACTER = "\ufffd"
RECIPE = 2  # to be raised with any change of how these are made: older caches are then not read
# A word takes the space before it along; other white space stands alone.
_WORD = r" ?\w+(?:['\u2019]\w+)*| ?[^\w\s]|\s"


def definition(
  name: str,
  vocab_size: int,
  reserved: int,
  documents: Sequence[str],
  cache_dir: str | os.PathLike | None = None,
) -> tokenizers.Tokenizer:
  """A tokenizer of one of the `KINDS`, without special tokens.

  Args:
    name: the kind.
    vocab_size: how many ids there will be with the special tokens; fewer where the documents do
      not have as many pieces. Byte and char have as many as they have.
    reserved: how many of them are special tokens, the end token among them.
    documents: what it is made from.
    cache_dir: where it is kept; ~/.cache/llm_jax if None.

  Raises:
    UserError: a size too small for the kind, or no text.
  """
  if name == "byte":
    return _byte_level(models.BPE(vocab=byte_names(), merges=[]))
  if not any(documents):
    raise UserError(f"The {name!r} tokenizer is made from training documents; found no text.")
  if name == "char":
    return _characters(documents)
  size = vocab_size - reserved
  least, why = (2, "a word, the unknown ones") if name == "word" else (256, "256 bytes")
  if size < least:
    raise UserError(
      f"tokenizer.vocab_size must be at least {least + reserved} for {name} ({why} and {reserved} "
      f"special), found {vocab_size}. The byte tokenizer has the fewest ids."
    )
  recipe = f"{RECIPE} {tokenizers.__version__} {sentencepiece.__version__} {size} "
  key = hashlib.sha256((recipe + corpora.fingerprint(documents)).encode()).hexdigest()
  path = cache.folder(cache_dir) / f"{name}-{key[:32]}.json"
  if path.exists():
    try:
      return tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the package raises plain Exception
      logger.warning("training again: %s cannot be read: %s", path, error)
  made = _TRAINERS[name](size, documents)
  cache.keep(path, made.to_str())
  logger.info("trained %s: %d tokens", name, made.get_vocab_size())
  return made


def byte_names() -> dict[str, int]:
  """The character by which byte-level models write each byte, to the byte's value.

  Printable Latin-1 stands for itself; the others, in order, for U+0100 onwards.
  """
  printable = {*range(0x21, 0x7F), *range(0xA1, 0x100)} - {0xAD}
  others = [value for value in range(256) if value not in printable]
  names = {value: chr(256 + place) for place, value in enumerate(others)}
  return {names.get(value, chr(value)): value for value in range(256)}


def _byte_level(model) -> tokenizers.Tokenizer:
  made = tokenizers.Tokenizer(model)
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  return made


def _whole(vocabulary: dict[str, int], pattern: str) -> tokenizers.Tokenizer:
  """Takes what fits the pattern as it is, or as unknown."""
  made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN_CHARACTER))
  made.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
  made.decoder = decoders.Fuse()
  return made


def of_symbols(symbols: Sequence[str]) -> tokenizers.Tokenizer:
  """Names between spaces, numbered in their order; one that is none of them is the first."""
  vocabulary = {name: i for i, name in enumerate(symbols)}
  made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=symbols[0]))
  made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  return made


def _characters(documents) -> tokenizers.Tokenizer:
  letters = sorted(set().union(*documents) - {UNKNOWN_CHARACTER})
  return _whole({letter: i for i, letter in enumerate([UNKNOWN_CHARACTER, *letters])}, r"[\s\S]")


def _of_words(vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
  made = _whole(vocabulary, _WORD)
  made.normalizer = normalizers.Prepend(" ")  # so that a word is the same one at the beginning
  made.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)])
  return made


def _words(size, documents) -> tokenizers.Tokenizer:
  made = _of_words({UNKNOWN_CHARACTER: 0})
  # As a special token, which training puts first; made anew without that mark.
  trainer = trainers.WordLevelTrainer(
    vocab_size=size, special_tokens=[UNKNOWN_CHARACTER], show_progress=False
  )
  made.train_from_iterator(documents, trainer)
  return _of_words(made.get_vocab(with_added_tokens=False))


def _bpe(size, documents) -> tokenizers.Tokenizer:
  made = _byte_level(models.BPE())
  trainer = trainers.BpeTrainer(
    vocab_size=size, initial_alphabet=list(byte_names()), show_progress=False
  )
  made.train_from_iterator(documents, trainer)
  return made


def _wordpiece(size, documents) -> tokenizers.Tokenizer:
  made = _byte_level(models.WordPiece(max_input_chars_per_word=100))
  # The model gives up on longer words.
  short = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]{1,100}"), "isolated")
  made.pre_tokenizer = pre_tokenizers.Sequence([made.pre_tokenizer, short])
  trainer = trainers.WordPieceTrainer(
    vocab_size=size,
    initial_alphabet=list(byte_names()),
    continuing_subword_prefix="",  # the space, which is a letter too, tells where a word begins
    show_progress=False,
  )
  made.train_from_iterator(documents, trainer)
  return made


def _unigram(size, documents) -> tokenizers.Tokenizer:
  """By sentencepiece: the scores that the `tokenizers` package finds differ from run to run."""
  split = pre_tokenizers.ByteLevel(add_prefix_space=False)
  counts = collections.Counter(
    word for document in documents for word, _ in split.pre_tokenize_str(document)
  )
  seen = set().union(*counts)
  unseen = [name for name in byte_names() if name not in seen]
  # The first pieces are what occurs twice, in different surroundings. So a frequent word stands in
  # several lines that share its count, and lines in no order: sorted, and with one line a word, a
  # text of Shakespeare took 8 to 15 % more tokens.
  lines = [
    f"{word}\t{len(range(part, count, 8))}"
    for word, count in sorted(counts.items())
    for part in range(min(count, 8))
  ]
  random.Random(0).shuffle(lines)
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines),
    input_format="tsv",
    model_writer=model,
    model_type="unigram",
    vocab_size=size - len(unseen) + 1,  # with the unknown piece, which is left out below
    hard_vocab_limit=False,  # a small text has fewer
    character_coverage=1.0,
    normalization_rule_name="identity",
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    split_by_unicode_script=False,  # the letters are bytes
    split_by_number=False,
    split_by_whitespace=False,
    bos_id=-1,
    eos_id=-1,
    num_threads=1,  # with more, sums depend on which comes first
    minloglevel=2,
  )
  pieces = [
    (piece.piece, score(piece))
    for piece in sentencepiece_model(model.getvalue()).pieces
    if piece.type != UNKNOWN
  ]
  lowest = min(found for _, found in pieces)
  return _byte_level(models.Unigram([*pieces, *((name, lowest) for name in unseen)]))


_TRAINERS = {"word": _words, "bpe": _bpe, "wordpiece": _wordpiece, "unigram": _unigram}
