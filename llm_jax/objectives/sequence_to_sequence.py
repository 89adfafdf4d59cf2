"""Sequence to sequence: the target is predicted from its source and its own tokens so far.

Several pairs share a row, none of which sees another. The loss may be smoothed: then the target
shares a little of its probability with the whole vocabulary. What is reported as the loss is not.

Source: Sutskever et al. 2014, arXiv:1409.3215, section 2; label smoothing: Szegedy et al. 2015,
arXiv:1512.00567, section 7.

Legend: N rows, S source position, U target position.
"""

import dataclasses

import numpy as np

from llm_jax import objective
from llm_jax.data import pairs
from llm_jax.data.tokenizers import Tokenizer
from llm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SequenceToSequence:
  """Translation, summaries, answers: a text for a text, with teacher forcing.

  Attributes:
    label_smoothing: the share of the probability that goes to all of the vocabulary alike.
    target_ratio: places for targets in a row, for each place for sources.
    too_long: what is done with a pair longer than a row: an "error", "drop", or "cut" at its end.
  """

  label_smoothing: float = 0.0
  target_ratio: float = 1.0
  too_long: str = "error"

  KINDS = ("encoder_decoder",)
  HEAD = "language_model"
  FIELDS = ("source", "target")
  SPECIAL_TOKENS = ()

  count = staticmethod(objective.count)

  def __post_init__(self):
    pairs.check_options(self)
    if not self.target_ratio > 0:
      raise UserError(f"objective_options.target_ratio must be above 0, found {self.target_ratio}.")

  def target_length(self, seq_len: int) -> int:
    return max(round(seq_len * self.target_ratio), 2)

  def labels(self, records: list[dict]) -> tuple[str, ...]:
    return ()

  def examples(
    self, records: list[dict], tokenizer: Tokenizer, labels, seq_len: int
  ) -> dict[str, np.ndarray]:
    """Rows of pairs, framed as `inference/generate` frames a source.

    Returns:
      tokens, segments, document_ids of the sources, int32 (N, S); targets and target_segments,
      int32 (N, U), each target with the end token behind it.

    Raises:
      UserError: an empty text, or a pair that does not fit a row.
    """
    lengths = seq_len, self.target_length(seq_len)
    before, behind = pairs.source_frame(tokenizer)
    parts = [], []
    encoded = zip(records, *pairs.encode(records, tokenizer), strict=True)
    for number, (record, source, target) in enumerate(encoded, 1):
      framed = before + source + behind, target + behind
      if not pairs.fits(record, number, list(map(len, framed)), lengths, self.too_long):
        kept = before + source[: seq_len - len(before + behind)] + behind
        # A pair of no tokens keeps the numbers of the others as they are.
        framed = (kept, framed[1][: lengths[1]]) if self.too_long == "cut" else ([], [])
      for part, ids in zip(parts, framed, strict=True):
        part.append(ids)
    sources, targets = pairs.pack(parts, lengths)
    return {**sources, "targets": targets["tokens"], "target_segments": targets["segments"]}

  def transform(self, row: dict[str, np.ndarray], vocabulary=None) -> dict[str, np.ndarray]:
    """The row with the weights of its targets, float32 (U,): 1 at every token."""
    weights = (row["target_segments"] > 0).astype(np.float32)
    return {**objective.as_stored(row), "weights": weights}

  def loss(self, model, params, batch, rngs: dict, train: bool):
    output, collections = objective.answer(model, params, batch, rngs, train)
    return objective.sums(output.logits, collections, batch, self.label_smoothing)
