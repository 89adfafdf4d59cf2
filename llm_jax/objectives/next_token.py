"""Next-token prediction: every token of a document is predicted from those before it.

Legend: B batch, T position, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.ops.cross_entropy import cross_entropy

KINDS = ("decoder",)  # models it suits: any other would see what it is to predict
HEAD = "language_model"  # the head it trains
SPECIAL_TOKENS = ()  # names of tokens it needs beside the end, see `data/tokenizers`


def target_length(seq_len: int) -> int:
  """How many targets a row of `seq_len` tokens has."""
  return seq_len


def transform(row: dict[str, np.ndarray], vocabulary=None) -> dict[str, np.ndarray]:
  """Makes a stored row into an example.

  Args:
    row: tokens, segments (0 = padding) and document_ids, int, each (T+1,).
    vocabulary: the tokenizer's, which other objectives read.

  Returns:
    tokens, segments, targets, document_ids, int32 (T,), and weights, float32 (T,): 1 where token
    and target are two of one document, else 0.
  """
  segments = np.asarray(row["segments"], np.int32)
  tokens = np.asarray(row["tokens"], np.int32)
  same = (segments[1:] == segments[:-1]) & (segments[1:] > 0)
  return {
    "tokens": tokens[:-1],
    "segments": segments[:-1],
    "targets": tokens[1:],
    "weights": same.astype(np.float32),
    "document_ids": np.asarray(row["document_ids"], np.int32)[:-1],
  }


def count(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """What the sums of `loss` are divided by: predicted tokens, and rows that hold any token."""
  rows_B = jnp.any(batch["segments"] > 0, axis=1)
  return {"tokens": jnp.sum(batch["weights"]), "rows": jnp.sum(rows_B, dtype=jnp.float32)}


def loss(model, params, batch: dict[str, jax.Array], rngs: dict, train: bool):
  """Sums of the losses over the batch, with the keys of `count`, and the metrics.

  The objective is the sum of the ratios of both, after each was added up over micro-batches and
  devices: so neither how a batch is split nor where its padding lies changes the loss.

  Returns:
    sums: "tokens", cross-entropy in nats; "rows", what layers put into the collection "losses"
      (a mixture of experts' balance), one value for each row.
    metrics: name -> (sum, count).
  """
  output, collections = model.apply(
    {"params": params},
    batch["tokens"],
    segments=batch["segments"],
    train=train,
    rngs=rngs,
    mutable=["losses"],
  )
  return sums(output.logits, collections, batch)


def sums(logits_BTV, collections, batch: dict[str, jax.Array]):
  """What `loss` returns, from logits of the batch's targets and what the layers put aside."""
  loss_BT, correct_BT = cross_entropy(logits_BTV, batch["targets"])
  counts = count(batch)
  weights_BT, tokens = batch["weights"], counts["tokens"]
  nats = jnp.sum(loss_BT * weights_BT)
  correct = jnp.sum(correct_BT * weights_BT)
  rows_B = jnp.any(batch["segments"] > 0, axis=1)
  side = jnp.float32(0.0)
  metrics = {"loss": (nats, tokens), "accuracy": (correct, tokens)}
  for leaf in jax.tree.leaves(collections.get("losses", {})):  # (..., B): layers, then rows
    side += jnp.sum(jnp.where(rows_B, leaf.reshape(-1, rows_B.shape[0]), 0.0))
    metrics["side_loss"] = (side, counts["rows"])
  return {"tokens": nats, "rows": side}, metrics
