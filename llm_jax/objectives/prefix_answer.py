"""Prefix answers: a decoder reads a source as the prefix of its answer, which alone is predicted.

  <begin> source <delimiter> target <end>

The source's tokens see each other both ways where a layer allows that; a layer that only looks back
reads them in order. The delimiter asks for the first token of the answer and is no part of the
prefix: so a prompt's last token may be read alone, as generation does.

Sources: of the layout Radford et al. 2018, "Improving Language Understanding by Generative
Pre-Training", section 3.3; of the mask Raffel et al. 2020, arXiv:1910.10683, section 3.2.1.

Legend: N rows, T position.
"""

import dataclasses

import numpy as np

from llm_jax import objective
from llm_jax.data import pairs
from llm_jax.data.special_tokens import DELIMITER
from llm_jax.data.tokenizers import Tokenizer
from llm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class PrefixAnswer:
  """Translation, summaries, answers, by a decoder of any layers.

  Attributes:
    label_smoothing: the share of the probability that goes to all of the vocabulary alike.
    too_long: what is done with a pair longer than a row: an "error", "drop", or "cut", which takes
      the end of the longer text.
  """

  label_smoothing: float = 0.0
  too_long: str = "error"

  KINDS = ("decoder",)
  HEAD = "language_model"
  FIELDS = ("source", "target")
  SPECIAL_TOKENS = (DELIMITER,)

  count = staticmethod(objective.count)

  def __post_init__(self):
    pairs.check_options(self)

  def target_length(self, seq_len: int) -> int:
    return seq_len

  def labels(self, records: list[dict]) -> tuple[str, ...]:
    return ()

  def prompt(self, text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids that ask for the answer to a text; all but the last are read both ways."""
    return self._asked(tokenizer.encode(text), tokenizer)

  def _asked(self, source: list[int], tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.begin_id, *source, tokenizer.vocabulary.id_of(DELIMITER)]

  def examples(
    self, records: list[dict], tokenizer: Tokenizer, labels, seq_len: int
  ) -> dict[str, np.ndarray]:
    """Rows of pairs.

    Returns:
      tokens, segments, document_ids and targets, int32 (N, T), and prefix, bool (N, T).

    Raises:
      UserError: an empty text, or a pair that does not fit a row.
    """
    room = seq_len - 2  # beside begin and delimiter; of the end, only the place before it counts
    if room < 2:
      raise UserError(f"seq_len must be at least 4, found {seq_len}: a row holds two texts.")
    parts = [], [], []
    encoded = zip(records, *pairs.encode(records, tokenizer), strict=True)
    for number, (record, source, target) in enumerate(encoded, 1):
      if not pairs.fits(record, number, [len(source) + len(target)], [room], self.too_long):
        if self.too_long == "drop":
          source = target = None
        else:
          kept = min(len(target), max(room // 2, room - len(source)))
          source, target = source[: room - kept], target[:kept]
      if source is None:  # a pair of no tokens keeps the numbers of the others as they are
        whole, prefix = [], 0
      else:
        asked = self._asked(source, tokenizer)
        whole, prefix = [*asked, *target, tokenizer.end_id], len(asked) - 1
      parts[0].append(whole[:-1])
      parts[1].append(whole[1:])
      parts[2].append([1] * prefix + [0] * (max(len(whole) - 1, 0) - prefix))
    inputs, targets, prefix = pairs.pack(parts, (seq_len,) * 3)
    return {**inputs, "targets": targets["tokens"], "prefix": prefix["tokens"].astype(bool)}

  def transform(self, row: dict[str, np.ndarray], vocabulary=None) -> dict[str, np.ndarray]:
    """The row with the weights of its targets, float32 (T,): 1 where the answer is predicted."""
    weights = ((row["segments"] > 0) & ~row["prefix"]).astype(np.float32)
    return {**objective.as_stored(row), "weights": weights}

  def loss(self, model, params, batch, rngs: dict, train: bool):
    read = objective.read(model, params, batch, rngs, train, prefix=batch["prefix"])
    output, collections = read
    return objective.sums(output.logits, collections, batch, self.label_smoothing)
