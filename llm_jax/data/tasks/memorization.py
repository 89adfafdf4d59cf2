"""Memorization (MAD): the values of keys are the same in all examples, and are never shown.

  k3 _ k1 _ k3 _ ..    at each blank the answer is the value of the key before it

Each key has a value of its own, which is learned from the training examples or not at all. Those
and the held-out examples are alike: keys drawn evenly, and the blanks count. Chance: 1 in as many
as there are values, 128 by default.

Source: Poli et al. 2024, arXiv:2403.17844, as athms/mad-lab has it, mad/data/instances.py; varied
is vocab_size, 512 to 8,192. Of its 256 training examples, 4,096 keys in all, expect 14 % of the
keys of vocab_size 4,096 and 37 % of those of 8,192 to be missing.
"""

import dataclasses
import functools

import numpy as np

from llm_jax.data import task
from llm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Memorization:
  """Facts that only the parameters can hold.

  Attributes:
    vocab_size: keys, values and the blank.
    seq_len: tokens of an example, half of them blanks.
    facts_seed: of the values of the keys.
  """

  vocab_size: int = 256
  seq_len: int = 32
  facts_seed: int = 12345

  METRIC = "accuracy"

  def __post_init__(self):
    task.at_least(self, vocab_size=3, seq_len=2, facts_seed=0)
    if self.seq_len % 2:
      raise UserError(
        f"The task's seq_len holds keys and blanks: it must be even, found {self.seq_len}."
      )

  @property
  def _keys(self) -> int:
    return (self.vocab_size - 1) // 2

  @functools.cached_property
  def _values_K(self) -> np.ndarray:
    """The id of each key's value."""
    random = np.random.RandomState(np.random.PCG64(self.facts_seed))
    values = self.vocab_size - 1 - self._keys
    return 1 + self._keys + random.permutation(values)[: self._keys]

  @property
  def symbols(self) -> tuple[str, ...]:
    keys = [f"k{i}" for i in range(self._keys)]
    return (task.BLANK, *keys, *(f"v{i}" for i in range(self.vocab_size - 1 - self._keys)))

  @property
  def groups(self) -> tuple[str, ...]:
    return (f"length_{self.seq_len}",)

  @property
  def length(self) -> int:
    return self.seq_len

  @property
  def held_out_length(self) -> int:
    return self.seq_len

  def draw(self, random: np.random.RandomState, group: int | None):
    keys_P = random.randint(self._keys, size=self.seq_len // 2)
    tokens, targets, counted = (np.zeros(self.seq_len, np.int32) for _ in range(3))
    tokens[::2] = 1 + keys_P
    targets[1::2], counted[1::2] = self._values_K[keys_P], 1
    return tokens, targets, counted
