"""Multi-query associative recall: pairs of a key and a value, then each key asks for its value.

  k1 v1 k2 v2 .. kn vn  _ _ k2 _ k1 ..    at the second k2 the answer is v2

Keys are distinct and drawn without replacement from the first half of the vocabulary, values from
the second. Each key is asked for once, at a gap behind the pairs that follows a power law: short
gaps are likelier. Other places behind the pairs hold random tokens or blanks, and do not count.

Chance: 1 in vocab_size / 2; of a model that answers with any value it has read, 1 in `pairs`.

Source: Arora et al. 2023, "Zoology", arXiv:2312.04927, section 3 and appendix E: the distribution
p(gap) ~ gap^(a - 1), a = 0.01, vocabulary of 8,192. Checked against HazyResearch/zoology,
zoology/data/multiquery_ar.py; the runs of its figure 2 leave blanks (noise=False), and train on
100,000 examples for 64 epochs.
"""

import dataclasses

import numpy as np

from llm_jax.data import task
from llm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class AssociativeRecall:
  """Recall of several facts at once.

  Attributes:
    vocab_size: ids, the blank included.
    seq_len: tokens of a training example.
    pairs: facts of a training example.
    held_out_pairs, held_out_lengths: of each kind of held-out example; () for those of training.
    power: a; the smaller, the likelier are short gaps.
    noise: whether the places between the questions hold random tokens instead of blanks.
  """

  vocab_size: int = 8192
  seq_len: int = 64
  pairs: int = 4
  held_out_pairs: tuple[int, ...] = ()
  held_out_lengths: tuple[int, ...] = ()
  power: float = 0.01
  noise: bool = True

  METRIC = "accuracy"

  def __post_init__(self):
    task.at_least(self, vocab_size=4, pairs=1)
    if len(self.held_out_pairs) != len(self.held_out_lengths):
      raise UserError(
        "held_out_pairs and held_out_lengths belong together, one of each for a kind of example; "
        f"found {self.held_out_pairs} and {self.held_out_lengths}."
      )
    for pairs, length in ((self.pairs, self.seq_len), *self._kinds):
      if length < 4 * pairs or length % 2:
        raise UserError(
          f"{pairs} pairs and their questions need an even length of at least {4 * pairs}; found "
          f"{length}."
        )
      if pairs > self.vocab_size // 2 - 1:
        raise UserError(f"{pairs} distinct keys need a vocab_size of {2 * pairs + 2} or more.")

  @property
  def _kinds(self) -> tuple[tuple[int, int], ...]:
    """(pairs, length) of each kind of held-out example."""
    asked = tuple(zip(self.held_out_pairs, self.held_out_lengths, strict=False))
    return asked or ((self.pairs, self.seq_len),)

  @property
  def symbols(self) -> tuple[str, ...]:
    half = self.vocab_size // 2
    keys = [f"k{i}" for i in range(1, half)]
    return (task.BLANK, *keys, *(f"v{i}" for i in range(self.vocab_size - half)))

  @property
  def groups(self) -> tuple[str, ...]:
    return tuple(f"pairs_{pairs}_length_{length}" for pairs, length in self._kinds)

  @property
  def length(self) -> int:
    return self.seq_len

  @property
  def held_out_length(self) -> int:
    return max(length for _, length in self._kinds)

  def draw(self, random: np.random.RandomState, group: int | None):
    pairs, length = (self.pairs, self.seq_len) if group is None else self._kinds[group]
    half = self.vocab_size // 2
    keys_P = 1 + task.distinct(random, half - 1, pairs)
    values_P = half + task.distinct(random, self.vocab_size - half, pairs)
    # Questions stand at even places behind the pairs, so that an answer never is a question.
    spaces = (length - 2 * pairs) // 2
    chance_S = np.arange(1, spaces + 1) ** (self.power - 1.0)
    # Who comes first in a race at these rates: one after the other without replacement, at once.
    gaps_P = np.argsort(random.exponential(size=spaces) / chance_S)[:pairs]
    tokens = np.zeros(length, np.int32)
    tokens[: 2 * pairs] = np.stack([keys_P, values_P], 1).reshape(-1)
    if self.noise:
      tokens[2 * pairs :] = random.randint(self.vocab_size, size=length - 2 * pairs)
    places_P = 2 * pairs + 2 * gaps_P
    tokens[places_P] = keys_P
    targets, counted = np.zeros(length, np.int32), np.zeros(length, np.float32)
    targets[places_P], counted[places_P] = values_P, 1.0
    return tokens, targets, counted
