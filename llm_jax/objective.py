"""What a training objective is: the contract of the files in `objectives/`, and what they share.

A file holds one public frozen dataclass, the CamelCase of the file's name. Its fields are its
options, `config.objective_options`, each with a default. Beside them it has:

  KINDS                  the kinds of model it suits; any other is refused
  HEAD                   the head it trains
  FIELDS                 () if it reads running text; else the fields of the records it reads,
                         see `data/records`
  SPECIAL_TOKENS         tokens it needs beside the begin and the end, see `data/special_tokens`
  target_length(seq_len) how many targets a row of `seq_len` tokens has
  transform(row, vocabulary) -> example
                         what is drawn anew each time a row is read, numpy on the host: of text a
                         row of the pipeline, of records a row of `examples`
  count(batch)           what the sums of the loss are divided by
  loss(model, params, batch, rngs, train) -> (sums, metrics)

if it has more to ask of a model than its kind and its head:

  check_model(spec)      raises UserError

and if it has an option `teacher`, the folder of a trained run:

  loss(..., teacher)     is given it as a `Teacher`, None where only the task is scored
  check_teacher(spec, teacher's spec)    refuses one that cannot teach this student

and if it reads records:

  labels(records)        the names it predicts, () if there are none: the classes of the head
  examples(records, tokenizer, labels, seq_len) -> {name: array (N, ...)}
                         the tokenized rows, made once; "document_ids" number the records in them,
                         and rows of zeros count for nothing

and if it makes its own data:

  parts()                -> (Records of training, Records that are held out), for `examples`
  symbols                the name of each token id, id 0 the end token's: the run's vocabulary
  longest                tokens of the longest row, held-out ones may be longer than `seq_len`

and if its model answers texts as prefixes:

  prompt(text, tokenizer) -> ids
                         how a text is put to it; all but the last token are read both ways

One that reads running text has `examples` too if its rows are not the text from end to end; it is
given documents instead of records.

Legend: B batch, T position, V vocabulary, N rows.
"""

import dataclasses
import importlib
import pkgutil
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from ml_collections import ConfigDict

import llm_jax.objectives
from llm_jax.errors import UserError, unknown
from llm_jax.ops.cross_entropy import both_entropies


@struct.dataclass
class Teacher:
  """A trained model and its parameters: read by a loss, never changed."""

  params: Any
  model: nn.Module = struct.field(pytree_node=False)


def names() -> list[str]:
  """Every objective on disk."""
  return sorted(module.name for module in pkgutil.iter_modules(llm_jax.objectives.__path__))


def options(name: str, **chosen) -> ConfigDict:
  """`config.objective_options` of an objective: what was chosen, all else at its default."""
  fields = {field.name: field.default for field in dataclasses.fields(_class(name))}
  for key in chosen:
    if key not in fields:
      raise unknown(f"option of objective {name!r}", key, fields)
  return ConfigDict({**fields, **chosen})


def make(config: ConfigDict):
  """The objective of a whole config.

  Raises:
    UserError: an unknown objective or option, or what the objective itself refuses.
  """
  return _class(config.objective)(**options(config.objective, **config.objective_options))


def _class(name: str):
  if name not in names():
    raise unknown("objective", name, names())
  module = importlib.import_module(f"llm_jax.objectives.{name}")
  return getattr(module, "".join(part.capitalize() for part in name.split("_")))


def check_suits(objective, name: str, spec) -> None:
  """Refuses a model of a kind, or without the head, that the objective trains."""
  if spec.kind not in objective.KINDS or objective.HEAD not in spec.heads:
    raise UserError(
      f"Objective {name!r} suits a {' or '.join(objective.KINDS)} with {objective.HEAD!r} in "
      f"model.heads; found model.kind={spec.kind!r} with model.heads={spec.heads}."
    )
  if hasattr(objective, "check_model"):
    objective.check_model(spec)


def as_stored(row: dict[str, np.ndarray], vocabulary=None) -> dict[str, np.ndarray]:
  """The `transform` of an objective that draws nothing."""
  return {name: value for name, value in row.items() if name != "key"}


def count(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """The sum of the targets' weights, and how many rows hold any token."""
  return {"tokens": jnp.sum(batch["weights"]), "rows": jnp.sum(_rows(batch), dtype=jnp.float32)}


def sums(logits, collections, batch: dict[str, jax.Array], label_smoothing: float = 0.0):
  """Sums of the losses over the batch, with the keys of `count`, and the metrics.

  The loss of a step is the sum of the ratios of both, after each was added up over micro-batches
  and devices: so neither how a batch is split nor where its padding lies changes the loss.

  Args:
    logits: (..., V) of each target.
    collections: what layers put aside; "losses" holds one value a row (a balance of experts).
    batch: "targets", int32 (...), "weights", float32 (...), and "segments" (B, T), 0 at padding.
    label_smoothing: the share of each target that goes to the whole vocabulary.

  Returns:
    sums: "tokens", cross-entropy in nats; "rows", the layers' own losses.
    metrics: name -> (sum, count), the cross-entropy without smoothing.
  """
  loss, uniform, correct = both_entropies(logits, batch["targets"])
  weights, counts = batch["weights"], count(batch)
  nats, correct = jnp.sum(loss * weights), jnp.sum(correct * weights)
  metrics = {"loss": (nats, counts["tokens"]), "accuracy": (correct, counts["tokens"])}
  if label_smoothing:
    smoothed = (1 - label_smoothing) * nats + label_smoothing * jnp.sum(uniform * weights)
    return with_side_losses(smoothed, metrics, collections, batch)
  return with_side_losses(nats, metrics, collections, batch)


def with_side_losses(loss, metrics: dict, collections, batch: dict[str, jax.Array]):
  """(sums, metrics) of an objective's own sum, with the layers' losses of the rows in use."""
  rows_B, side = _rows(batch), jnp.float32(0.0)
  for leaf in jax.tree.leaves(collections.get("losses", {})):  # (..., B): layers, then rows
    side += jnp.sum(jnp.where(rows_B, leaf.reshape(-1, rows_B.shape[0]), 0.0))
    metrics = metrics | {"side_loss": (side, jnp.sum(rows_B, dtype=jnp.float32))}
  return {"tokens": loss, "rows": side}, metrics


def read(model, params, batch: dict[str, jax.Array], rngs: dict, train: bool, **inputs):
  """(Output, collections) of a decoder or an encoder for a batch's tokens."""
  return model.apply(
    {"params": params},
    batch["tokens"],
    segments=batch["segments"],
    train=train,
    rngs=rngs,
    mutable=["losses"],
    **inputs,
  )


def answer(model, params, batch: dict[str, jax.Array], rngs: dict, train: bool):
  """(Output, collections) of an encoder-decoder: sources are the tokens, and each target is
  predicted from those before it."""
  targets_BU, segments_BU = batch["targets"], batch["target_segments"]
  before_BU = jnp.pad(targets_BU, ((0, 0), (1, 0)))[:, :-1]
  first_BU = segments_BU != jnp.pad(segments_BU, ((0, 0), (1, 0)))[:, :-1]
  return model.apply(
    {"params": params},
    batch["tokens"],
    jnp.where(first_BU, model.spec.decoder_start_id, before_BU),
    source_segments=batch["segments"],
    target_segments=segments_BU,
    train=train,
    rngs=rngs,
    mutable=["losses"],
  )


def _rows(batch):
  return jnp.any(batch["segments"] > 0, axis=1)
