"""In-context recall (MAD): pairs of a key and a value; a key that comes again has the same value.

  k3 v7 k1 v2 k3 v7 ..    at the second k3 the answer is v7

The values of the keys are drawn anew for each example, and every place holds a pair of a key drawn
evenly; the last pair's key is one of those before. In training every token is predicted from those
before it, keys and first values too, which nobody can know. Held out, the values of keys that have
been read before count alone. Chance: 1 in as many as there are values, 8 by default.

Source: Poli et al. 2024, "Mechanistic design and scaling of hybrid architectures",
arXiv:2403.17844, in the form of its repository athms/mad-lab, mad/data/instances.py and
configs/tasks: 12,800 training and 1,280 test examples, 200 epochs; varied are vocab_size 32, 64,
128, seq_len 256, 512, 1024, and 6,400 to 800 training examples. Its accuracy is the mean over the
answers' classes, ours the mean over answers.
"""

import dataclasses

import numpy as np

from llm_jax.data import task
from llm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class InContextRecall:
  """Recall of whatever was read before.

  Attributes:
    vocab_size: keys, values and noise; the blank is one more.
    seq_len: tokens of all pairs; an example is one shorter, for its last is only predicted.
    noise_size: ids that are noise.
    noise: share of the places that hold two tokens of noise instead of a pair.
  """

  vocab_size: int = 16
  seq_len: int = 128
  noise_size: int = 0
  noise: float = 0.0

  METRIC = "accuracy"

  def __post_init__(self):
    task.at_least(self, vocab_size=2, seq_len=4, noise_size=0)
    if self.seq_len % 2:
      raise UserError(f"The task's seq_len holds pairs: it must be even, found {self.seq_len}.")
    if self.vocab_size - self.noise_size < 2:
      raise UserError(
        f"The task needs a key and a value beside noise_size={self.noise_size}: a vocab_size of "
        f"{self.noise_size + 2} or more, found {self.vocab_size}."
      )
    if not 0 <= self.noise < 1 or (self.noise and not self.noise_size):
      raise UserError(
        "The task's noise must be a share from 0 to below 1, and 0 where noise_size is 0; found "
        f"{self.noise} with noise_size={self.noise_size}."
      )

  @property
  def _sizes(self) -> tuple[int, int]:
    """Keys and values."""
    both = self.vocab_size - self.noise_size
    return both // 2, both - both // 2

  @property
  def symbols(self) -> tuple[str, ...]:
    kinds = zip("kvn", (*self._sizes, self.noise_size), strict=True)
    return (task.BLANK, *(f"{kind}{i}" for kind, size in kinds for i in range(size)))

  @property
  def groups(self) -> tuple[str, ...]:
    return (f"length_{self.seq_len}",)

  @property
  def length(self) -> int:
    return self.seq_len - 1

  @property
  def held_out_length(self) -> int:
    return self.length

  def draw(self, random: np.random.RandomState, group: int | None):
    places, (keys, values) = self.seq_len // 2, self._sizes
    noisy_P = random.random_sample(places) < self.noise
    noisy_P[[random.randint(places - 1), -1]] = False  # a pair to ask for, and the question
    keys_P = random.randint(keys, size=places)
    told_P = np.flatnonzero(~noisy_P)
    keys_P[-1] = random.choice(np.unique(keys_P[told_P[:-1]]))
    values_K = random.randint(values, size=keys)
    pairs_P2 = np.stack([1 + keys_P, 1 + keys + values_K[keys_P]], axis=1)
    if self.noise:
      noise_P2 = 1 + keys + values + random.randint(self.noise_size, size=(places, 2))
      pairs_P2 = np.where(noisy_P[:, None], noise_P2, pairs_P2)
    if group is None:
      return task.next_tokens(pairs_P2.reshape(-1), np.ones(self.seq_len))
    counted_P2 = np.zeros((places, 2))
    counted_P2[told_P, 1] = 1.0
    counted_P2[told_P[np.unique(keys_P[told_P], return_index=True)[1]], 1] = 0.0
    return task.next_tokens(pairs_P2.reshape(-1), counted_P2.reshape(-1))
