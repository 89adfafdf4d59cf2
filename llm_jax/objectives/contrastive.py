"""Contrastive sentence embedding: a text is nearer to its own partner than to those of others.

The negatives of a text are the partners of the others in its group, k pairs that are drawn once
and make one row of the pipeline. So the loss is the same however a batch lies on devices; a larger
`group` is a harder task, and batch_size counts groups.

Sources: the loss, -log softmax of cosines over a temperature: van den Oord et al. 2018,
arXiv:1807.03748, eq. 4, with negatives as by Henderson et al. 2017, arXiv:1705.00652, section 4;
one text twice under two dropouts: Gao et al. 2021, arXiv:2104.08821, section 3.

Legend: N pairs, B groups of a batch, K pairs of a group, T position, D model.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from llm_jax import objective
from llm_jax.data import labelled, layouts
from llm_jax.data.packing import PADDING
from llm_jax.errors import UserError
from llm_jax.ops.cross_entropy import cross_entropy


@dataclasses.dataclass(frozen=True)
class Contrastive:
  """InfoNCE within groups.

  Attributes:
    group: K, pairs that are told from each other; 2 or more.
    temperature: of the cosines.
    same_text: whether a text is its own partner, under another dropout; records have "text" only.
    layout: classifier, extract or plain, see `data/layouts`.
    too_long: what becomes of a text that seq_len has no room for: "error" or "cut".
  """

  group: int = 16
  temperature: float = 0.05
  same_text: bool = False
  layout: str = "classifier"
  too_long: str = "error"

  KINDS = ("decoder", "encoder")
  HEAD = "embedding"

  transform = staticmethod(objective.as_stored)

  def __post_init__(self):
    labelled.check_choice("layout", self.layout, layouts.LAYOUTS)
    labelled.check_choice("too_long", self.too_long, labelled.TOO_LONG)
    if self.group < 2 or not self.temperature > 0:
      raise UserError(
        "objective_options.group must be 2 or more and temperature above 0; found "
        f"{self.group} and {self.temperature}."
      )

  @property
  def FIELDS(self):  # a constant of the contract that an option changes
    return ("text",) if self.same_text else ("text", "positive")

  @property
  def SPECIAL_TOKENS(self):
    return layouts.special_tokens(self.layout)

  def check_model(self, spec) -> None:
    """Refuses a model that does not read what the layout says of the text, or `same_text` where
    nothing tells the two apart."""
    layouts.check_model(self.layout, spec)
    if self.same_text and not spec.dropout_rate:
      raise UserError(
        "With same_text the two readings of a text differ by dropout alone, and "
        "model.dropout_rate is 0. Set --config.model.dropout_rate=0.1."
      )

  def target_length(self, seq_len: int) -> int:
    return seq_len

  def labels(self, records: list[dict]) -> tuple[str, ...]:
    return ()

  def examples(self, records, tokenizer, labels, seq_len) -> dict[str, np.ndarray]:
    """The groups of records, drawn in one fixed order; the last one is filled with padding.

    Returns:
      tokens and segments (0 = padding), int32 (groups, K, 2, T); document_ids, int32 (groups, K),
      -1 at padding; weights, float32 (groups, K): 1 at pairs.

    Raises:
      UserError: a text empty or too long; the message names the record.
    """
    before, _, after = layouts.frame(self.layout, tokenizer.vocabulary)
    room = seq_len - len(before) - len(after)
    sides = []
    for name in (self.FIELDS[0], self.FIELDS[-1]):
      texts = labelled.encode(tokenizer, records, name)
      rows = [
        before + labelled.fit([ids], room, self.too_long, number)[0] + after
        for number, ids in enumerate(texts, 1)
      ]
      ones = [[1] * len(row) for row in rows]
      sides.append([labelled.padded(rows, seq_len), labelled.padded(ones, seq_len)])
    # Neighbours in a file are often of one subject, or of one text.
    order_N = np.random.RandomState(0).permutation(len(records))
    groups = -(-len(records) // self.group)

    def grouped(array_N, padding=0):
      rest = groups * self.group - len(records)
      filled = np.concatenate([array_N, np.full((rest, *array_N.shape[1:]), padding, np.int32)])
      return filled.reshape(groups, self.group, *array_N.shape[1:])

    tokens, segments = (np.stack(pair, axis=1)[order_N] for pair in zip(*sides, strict=True))
    ids = grouped(order_N.astype(np.int32), PADDING)
    return {
      "tokens": grouped(tokens),
      "segments": grouped(segments),
      "document_ids": ids,
      "weights": (ids != PADDING).astype(np.float32),
    }

  def count(self, batch) -> dict:
    return objective.count(_flat(batch))

  def loss(self, model, params, batch, rngs: dict, train: bool):
    output, collections = self.outputs(model, params, batch, rngs, train)
    weights_BK = batch["weights"]
    pairs_BK2D = output.heads["embedding"].reshape(*weights_BK.shape, 2, -1)
    scores_BKK = jnp.einsum("bkd,bjd->bkj", pairs_BK2D[:, :, 0], pairs_BK2D[:, :, 1])
    real_B1K = weights_BK[:, None] > 0
    logits_BKK = jnp.where(real_B1K, scores_BKK / self.temperature, -1e9)
    own_BK = jnp.broadcast_to(jnp.arange(weights_BK.shape[1]), weights_BK.shape)
    nats_BK, nearest_BK = cross_entropy(logits_BKK, own_BK)
    counted, nats = jnp.sum(weights_BK), jnp.sum(nats_BK * weights_BK)
    metrics = {"loss": (nats, counted), "accuracy": (jnp.sum(nearest_BK * weights_BK), counted)}
    return objective.with_side_losses(nats, metrics, collections, _flat(batch))

  def outputs(self, model, params, batch, rngs: dict, train: bool):
    """(Output, collections) of the model for all texts of a batch: B, K and side make one axis."""
    return objective.read(model, params, _flat(batch), rngs, train)


def _flat(batch):
  """A batch of which each text is a row."""
  length = batch["tokens"].shape[-1]
  return batch | {name: batch[name].reshape(-1, length) for name in ("tokens", "segments")}
