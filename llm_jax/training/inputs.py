"""From a config to what a run is fed: text, tokenizer and batches."""

import dataclasses
import functools
import hashlib
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from llm_jax import objective
from llm_jax.data import corpora, pipeline, records, tokenizers
from llm_jax.data.packing import Examples, Stream
from llm_jax.data.tokenizers import Tokenizer, Vocabulary
from llm_jax.errors import UserError
from llm_jax.models import build

TOKENIZER = "tokenizer.json"
LABELS = "labels.json"
_OF_TOKENS = ("language_model", "masked_lm")  # heads whose loss is bits of the text


@dataclasses.dataclass(frozen=True)
class Text:
  """The data of a run, in its two parts; each a list of corpora, or records, with their weights.

  Attributes:
    train, validation: ((Corpus or Records, weight), ...), one entry unless the config gives a
      mixture.
    sha256: of all documents; a run goes on only with the text it began with.
  """

  train: tuple
  validation: tuple
  sha256: str

  @property
  def validation_bytes(self) -> int:
    """The denominator of bits per byte."""
    return sum(corpus.num_bytes for corpus, _ in self.validation)

  @property
  def train_documents(self) -> list[str]:
    """What a tokenizer is trained on."""
    return [document for corpus, _ in self.train for document in corpus.documents]


def load_text(config: ConfigDict) -> Text:
  """Reads the corpora of `config.data`, or the records if the objective asks for such, and holds
  out the validation part of each if it has no path of its own."""
  # An imported model without heads has no objective, and the text of any.
  asked = objective.make(config) if config.objective else None
  if hasattr(asked, "parts"):
    return _own_data(config, asked)
  fields = asked.FIELDS if asked else ()
  read = functools.partial(records.load, fields=fields) if fields else corpora.load
  split = records.split if fields else corpora.split
  if config.data.path and config.data.mixture:
    raise UserError("data.path and data.mixture are both set; leave one of them empty.")
  for entry in config.data.mixture:
    if not (isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[0], str)):
      raise UserError(f"data.mixture must be ((path, weight), ...); found the entry {entry!r}.")
  train, validation, digest = [], [], hashlib.sha256()
  for path, weight in config.data.mixture or ((config.data.path, 1.0),):
    part = read(path)
    digest.update(part.sha256.encode())
    if not config.data.validation_path:
      # Not config.seed: runs that differ in their seed are compared on one validation text.
      part, held_out = split(part, config.data.validation_fraction, seed=0)
      validation.append((held_out, float(weight)))
    train.append((part, float(weight)))
  if config.data.validation_path:
    validation.append((read(config.data.validation_path), 1.0))
    digest.update(validation[0][0].sha256.encode())
  return Text(tuple(train), tuple(validation), digest.hexdigest())


def _own_data(config: ConfigDict, asked) -> Text:
  """The data of an objective that makes its own."""
  for name in ("path", "mixture", "validation_path"):
    if config.data[name]:
      raise UserError(
        f"data.{name} is set, but the objective {config.objective!r} makes its own data. Leave it "
        "empty, or choose another objective."
      )
  train, held_out = asked.parts()
  return Text(((train, 1.0),), ((held_out, 1.0),), train.sha256)


def load_tokenizer(config: ConfigDict, folder: Path, text: Text) -> Tokenizer:
  """The run's tokenizer.json if it has one already, else the one its config asks for."""
  if (folder / TOKENIZER).exists():
    return tokenizers.load(folder / TOKENIZER)
  asked = objective.make(config)
  if hasattr(asked, "symbols"):
    return tokenizers.of_symbols(asked.symbols)
  return tokenizers.get(config.tokenizer, text.train_documents, special=asked.SPECIAL_TOKENS)


def load_labels(config: ConfigDict, text: Text) -> tuple[str, ...]:
  """The names that the objective predicts, of all training records; () if there are none."""
  asked = objective.make(config)
  if not asked.FIELDS:
    return ()
  return asked.labels([record for part, _ in text.train for record in part.records])


def model_config(config: ConfigDict, tokenizer: Tokenizer, labels=()) -> ConfigDict:
  """The config's `model` with the tokenizer's vocabulary and the number of classes filled in.

  Raises:
    UserError: the config names a vocabulary that the tokenizer's ids do not fit in, or another
      number of classes than there are labels.
  """
  classes = config.model.num_classes
  if classes and labels and classes != len(labels):
    raise UserError(
      f"model.num_classes is {classes}, but the training data has {len(labels)} labels "
      f"({', '.join(labels[:8])}). Leave model.num_classes at 0, which takes theirs."
    )
  asked = config.model.vocab_size
  if asked and asked < tokenizer.vocab_size:
    raise UserError(
      f"model.vocab_size is {asked}, but the tokenizer has {tokenizer.vocab_size} ids. Give "
      "another tokenizer, or leave model.vocab_size at 0, which takes the tokenizer's."
    )
  sizes = {"vocab_size": asked or tokenizer.vocab_size, "num_classes": classes or len(labels)}
  return ConfigDict({**config.model.to_dict(), **sizes})


def model(config: ConfigDict, tokenizer: Tokenizer, labels=()) -> nn.Module:
  """The model of a config, for this tokenizer and these labels."""
  found = build.build(model_config(config, tokenizer, labels), config.dtype)
  objective.check_suits(objective.make(config), config.objective, found.spec)
  longest = found.spec.max_length
  if found.spec.positions == "learned" and longest < config.seq_len:
    raise UserError(
      f"seq_len is {config.seq_len}, but the model has learned positions for model.max_length="
      f"{longest} tokens. Lower the one or raise the other."
    )
  return found


class Batches:
  """The batches of a run: endless ones for training, the whole validation part again and again.

  Attributes:
    train: the iterator, with get_state and set_state.
    validation_targets: how many tokens there are to predict in the validation text; 0 where that
      is not what is predicted.
    sha256: of the training tokens.
  """

  def __init__(self, config: ConfigDict, text: Text, tokenizer: Tokenizer, labels=()):
    self._config, self._tokenizer, self._labels = config, tokenizer, labels
    self._objective = objective.make(config)
    self._validation = self._encode(text.validation)
    self.validation_targets = sum(
      len(part.tokens_N) - len(part.ends_D)
      for part, _ in self._validation
      if not isinstance(part, Examples) and self._objective.HEAD in _OF_TOKENS
    )
    train, digest = self._encode(text.train), hashlib.sha256()
    self._transform = functools.partial(
      self._objective.transform, vocabulary=_counted(tokenizer.vocabulary, train)
    )
    for part, _ in train:
      for array in part.arrays.values() if isinstance(part, Examples) else (part.tokens_N,):
        digest.update(np.ascontiguousarray(array))
    self.sha256 = digest.hexdigest()
    self.train = self._iterator(train, epochs=None)

  def validation(self) -> pipeline.BatchIterator:
    """The validation part once, in its own order; the last batch is filled with padding."""
    return self._iterator(self._validation, epochs=1)

  def _encode(self, parts):
    """[(Stream or Examples, weight)]"""
    return [(self._encoded(part), weight) for part, weight in parts]

  def _encoded(self, part):
    return table(self._objective, part, self._tokenizer, self._labels, self._config.seq_len)

  def _iterator(self, streams, epochs):
    return pipeline.make_iterator(
      streams,
      batch_size=self._config.batch_size,
      seq_len=self._config.seq_len,
      # What a validation row hides of itself must not depend on the run either.
      seed=self._config.seed if epochs is None else 0,
      pack=self._config.data.pack,
      transform=self._transform,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      epochs=epochs,
    )


def table(asked, part, tokenizer: Tokenizer, labels, seq_len: int) -> Stream | Examples:
  """What an objective's rows are read from: the tokens of a corpus joined, or what it makes of
  records, or of documents."""
  if not hasattr(asked, "examples"):
    return pipeline.join(tokenizer.encode_documents(part.documents))
  read = part.records if asked.FIELDS else part.documents
  try:
    return Examples(asked.examples(read, tokenizer, labels, seq_len))
  except UserError as error:  # which counts from the part's own first record
    raise UserError(f"{part.name}: {error}") from None


def _counted(vocabulary: Vocabulary, parts) -> Vocabulary:
  """The vocabulary with how often each id stands in the training text."""
  streams = [part.tokens_N for part, _ in parts if not isinstance(part, Examples)]
  counts = [np.bincount(tokens_N, minlength=vocabulary.size) for tokens_N in streams]
  return dataclasses.replace(vocabulary, counts=sum(counts)) if counts else vocabulary


def document_ids(batch: dict[str, np.ndarray]) -> list[int]:
  """The documents a batch holds tokens of, ascending."""
  return sorted({int(i) for i in np.unique(batch["document_ids"]) if i >= 0})
