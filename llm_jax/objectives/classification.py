"""Classification: which of some classes a text, or a pair of texts, belongs to.

How it stands in a row is one of `data/layouts`.

Sources: Devlin et al. 2018, arXiv:1810.04805, section 4.1; of the auxiliary loss Radford et al.
2018, "Improving Language Understanding by Generative Pre-Training", section 3.2; of token_dropout
Iyyer et al. 2015, "Deep Unordered Composition Rivals Syntactic Methods for Text Classification",
section 3.1.

Legend: B batch, N records, T position.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax import objective
from llm_jax.data import labelled, layouts
from llm_jax.errors import UserError
from llm_jax.ops.cross_entropy import cross_entropy


@dataclasses.dataclass(frozen=True)
class Classification:
  """Cross-entropy of a text's class.

  Attributes:
    layout: classifier, extract or plain.
    pairs: whether a record has a second text, `text_b`.
    language_model_weight: of the mean loss of each next token, added to that of the class; it
      needs a decoder with the "language_model" head too.
    token_dropout: share of a text's tokens that a training step leaves out, as if padding.
    too_long: what becomes of a text that seq_len has no room for: "error" or "cut".
  """

  layout: str = "classifier"
  pairs: bool = False
  language_model_weight: float = 0.0
  token_dropout: float = 0.0
  too_long: str = "error"

  KINDS = ("decoder", "encoder")
  HEAD = "classification"

  transform = staticmethod(objective.as_stored)

  def __post_init__(self):
    labelled.check_choice("layout", self.layout, layouts.LAYOUTS)
    labelled.check_choice("too_long", self.too_long, labelled.TOO_LONG)
    if not 0 <= self.token_dropout < 1 or (self.token_dropout and self.language_model_weight):
      raise UserError(
        f"token_dropout must be 0 or more and less than 1, found {self.token_dropout}; and with "
        "language_model_weight 0, for what is left out cannot be predicted."
      )

  @property
  def FIELDS(self):  # a constant of the contract that an option changes
    return ("text", "text_b", "label") if self.pairs else ("text", "label")

  @property
  def SPECIAL_TOKENS(self):
    return layouts.special_tokens(self.layout, self.pairs)

  def check_model(self, spec) -> None:
    """Refuses a model that does not read what the layout says of the text."""
    layouts.check_model(self.layout, spec)
    if self.language_model_weight and not (
      spec.kind == "decoder" and "language_model" in spec.heads
    ):
      raise UserError(
        "language_model_weight needs a decoder with 'language_model' in model.heads; found "
        f"model.kind={spec.kind!r} with model.heads={spec.heads}."
      )

  def target_length(self, seq_len: int) -> int:
    return seq_len

  def labels(self, records: list[dict]) -> tuple[str, ...]:
    """The classes, in alphabetical order."""
    found = tuple(sorted({str(record["label"]) for record in records}))
    if len(found) < 2:
      raise UserError(f"All training records have the label {found[0]!r}; expected two or more.")
    return found

  def examples(self, records, tokenizer, labels, seq_len) -> dict[str, np.ndarray]:
    """The rows of records.

    Returns:
      tokens, segments (0 = padding), token_types (1 at the second text) and framing (1 at the
      layout's own tokens), int32 (N, T); targets and document_ids, int32 (N,); weights, float32
      (N,): 1.

    Raises:
      UserError: a text empty or too long, or an unknown label; the message names the record.
    """
    texts = [labelled.encode(tokenizer, records, name) for name in self.FIELDS[:-1]]
    numbers = {label: number for number, label in enumerate(labels)}
    before, between, after = layouts.frame(self.layout, tokenizer.vocabulary, self.pairs)
    framing = len(before) + len(after) + len(between) * (len(texts) - 1)
    rows, types, own, targets = [], [], [], []
    for number, (record, *parts) in enumerate(zip(records, *texts, strict=True), 1):
      first, *second = labelled.fit(parts, seq_len - framing, self.too_long, number)
      second = second[0] if second else []
      between = between if second else []
      rows.append(before + first + between + second + after)
      own.append([1] * len(before) + [0] * len(first) + [1] * len(between) + [0] * len(second))
      own[-1] += [1] * len(after)
      # A separator belongs to the text before it.
      ones = len(second + after) if second else 0
      types.append([0] * (len(rows[-1]) - ones) + [1] * ones)
      targets.append(labelled.number_of(record["label"], numbers, number))
    return {
      "tokens": labelled.padded(rows, seq_len),
      "segments": labelled.padded([[1] * len(row) for row in rows], seq_len),
      "token_types": labelled.padded(types, seq_len),
      "framing": labelled.padded(own, seq_len),
      "targets": np.array(targets, np.int32),
      "weights": np.ones(len(rows), np.float32),
      "document_ids": np.arange(len(rows), dtype=np.int32),
    }

  def count(self, batch) -> dict:
    counts = objective.count(batch)
    if self.language_model_weight:
      counts["next_tokens"] = jnp.sum(_next(batch)[1])
    return counts

  def loss(self, model, params, batch, rngs: dict, train: bool):
    output, collections = self.outputs(model, params, batch, rngs, train)
    sums, metrics = objective.sums(output.heads["classification"], collections, batch)
    if self.language_model_weight:
      next_BT, weights_BT = _next(batch)
      nats = jnp.sum(cross_entropy(output.heads["language_model"], next_BT)[0] * weights_BT)
      metrics["language_model_loss"] = (nats, jnp.sum(weights_BT))
      sums["next_tokens"] = self.language_model_weight * nats
    return sums, metrics

  def outputs(self, model, params, batch, rngs: dict, train: bool):
    """(Output, collections) of the model for a batch."""
    types = {"token_types": batch["token_types"]} if model.spec.token_types else {}
    if train and self.token_dropout:
      key = jax.random.fold_in(rngs["dropout"], 1)  # not the key of the model's own
      kept_BT = jax.random.bernoulli(key, 1 - self.token_dropout, batch["segments"].shape)
      kept_BT = kept_BT | (batch["framing"] > 0)
      batch = batch | {"segments": jnp.where(kept_BT, batch["segments"], 0)}
    return objective.read(model, params, batch, rngs, train, **types)


def _next(batch):
  """The token after each, and 1 where there is one; both (B, T)."""
  next_BT = jnp.pad(batch["tokens"], ((0, 0), (0, 1)))[:, 1:]
  real_BT = jnp.pad(batch["segments"], ((0, 0), (0, 1)))[:, 1:] > 0
  return next_BT, real_BT.astype(jnp.float32)
