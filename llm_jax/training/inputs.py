"""From a config to what a run is fed: text, tokenizer and batches."""

import dataclasses
import functools
import hashlib
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

import llm_jax.objectives
from llm_jax.data import corpora, pipeline, tokenizers
from llm_jax.data.tokenizers import Tokenizer
from llm_jax.errors import UserError, unknown
from llm_jax.models import build

TOKENIZER = "tokenizer.json"


@dataclasses.dataclass(frozen=True)
class Text:
  """The text of a run, in its two parts; each a list of corpora with their weights.

  Attributes:
    train, validation: ((Corpus, weight), ...), one entry unless the config gives a mixture.
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
  """Reads the corpora of `config.data` and holds out the validation part of each."""
  if config.data.path and config.data.mixture:
    raise UserError("data.path and data.mixture are both set; leave one of them empty.")
  for entry in config.data.mixture:
    if not (isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[0], str)):
      raise UserError(f"data.mixture must be ((path, weight), ...); found the entry {entry!r}.")
  train, validation, digest = [], [], hashlib.sha256()
  for path, weight in config.data.mixture or ((config.data.path, 1.0),):
    corpus = corpora.load(path)
    digest.update(corpus.sha256.encode())
    # Not config.seed: runs that differ in their seed are compared on one validation text.
    parts = corpora.split(corpus, config.data.validation_fraction, seed=0)
    train.append((parts[0], float(weight)))
    validation.append((parts[1], float(weight)))
  return Text(tuple(train), tuple(validation), digest.hexdigest())


def load_tokenizer(config: ConfigDict, folder: Path, text: Text) -> Tokenizer:
  """The run's tokenizer.json if it has one already, else the one its config asks for."""
  if (folder / TOKENIZER).exists():
    return tokenizers.load(folder / TOKENIZER)
  special = objective(config.objective).SPECIAL_TOKENS
  return tokenizers.get(config.tokenizer, text.train_documents, special=special)


def objective(name: str) -> ModuleType:
  """The file of `llm_jax/objectives` with this name."""
  names = [module.name for module in pkgutil.iter_modules(llm_jax.objectives.__path__)]
  if name not in names:
    raise unknown("objective", name, names)
  return importlib.import_module(f"llm_jax.objectives.{name}")


def model_config(config: ConfigDict, tokenizer: Tokenizer) -> ConfigDict:
  """The config's `model` with the tokenizer's vocabulary filled in.

  Raises:
    UserError: the config names a vocabulary that the tokenizer's ids do not fit in.
  """
  asked = config.model.vocab_size
  if asked and asked < tokenizer.vocab_size:
    raise UserError(
      f"model.vocab_size is {asked}, but the tokenizer has {tokenizer.vocab_size} ids. Give "
      "another tokenizer, or leave model.vocab_size at 0, which takes the tokenizer's."
    )
  return ConfigDict({**config.model.to_dict(), "vocab_size": asked or tokenizer.vocab_size})


def model(config: ConfigDict, tokenizer: Tokenizer) -> nn.Module:
  """The model of a config, for this tokenizer."""
  found = build.build(model_config(config, tokenizer), config.dtype)
  suited = objective(config.objective)
  if found.spec.kind not in suited.KINDS or suited.HEAD not in found.spec.heads:
    raise UserError(
      f"Objective {config.objective!r} suits a {' or '.join(suited.KINDS)} with {suited.HEAD!r} in "
      f"model.heads; found model.kind={found.spec.kind!r} with model.heads={found.spec.heads}."
    )
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
    validation_targets: how many tokens there are to predict in the validation part.
    sha256: of the training tokens.
  """

  def __init__(self, config: ConfigDict, text: Text, tokenizer: Tokenizer, objective: ModuleType):
    self._config = config
    self._transform = functools.partial(objective.transform, vocabulary=tokenizer.vocabulary)
    self._validation = self._encode(text.validation, tokenizer)
    self.validation_targets = sum(len(s.tokens_N) - len(s.ends_D) for s, _ in self._validation)
    train, digest = self._encode(text.train, tokenizer), hashlib.sha256()
    for stream, _ in train:
      digest.update(stream.tokens_N)
    self.sha256 = digest.hexdigest()
    self.train = self._iterator(train, epochs=None)

  def validation(self) -> pipeline.BatchIterator:
    """The validation part once, in its own order; the last batch is filled with padding."""
    return self._iterator(self._validation, epochs=1)

  def _encode(self, parts, tokenizer):
    """[(Stream, weight)]"""
    encode = lambda corpus: pipeline.join(tokenizer.encode_documents(corpus.documents))
    return [(encode(corpus), weight) for corpus, weight in parts]

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


def document_ids(batch: dict[str, np.ndarray]) -> list[int]:
  """The documents a batch holds tokens of, ascending."""
  return sorted({int(i) for i in np.unique(batch["document_ids"]) if i >= 0})
