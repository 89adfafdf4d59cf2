"""Compression (MAD): a row of random tokens is restored from the stream of its last token alone.

  t4 t1 t7 .. _    what the model makes of "_" has to hold all of the row

The head is the autoencoder's: a small network is given that stream and a place, and says which
token stands there. Training and held-out examples are alike; every place counts, the last one too,
at which there always is a blank. Chance: 1 in vocab_size - 1 at the others, 15 by default.

Source: Poli et al. 2024, arXiv:2403.17844, as athms/mad-lab has it, mad/data/instances.py and
mad/model/auto_encoder.py; varied are vocab_size 32, 64, 128, seq_len 64, 128, 256, and 6,400 to
800 training examples of 12,800.
"""

import dataclasses

import numpy as np

from llm_jax.data import task


@dataclasses.dataclass(frozen=True)
class Compression:
  """All of a row in one vector.

  Attributes:
    vocab_size: tokens and the blank.
    seq_len: tokens of an example, the blank included.
  """

  vocab_size: int = 16
  seq_len: int = 32

  METRIC = "accuracy"
  HEAD = "reconstruction"

  def __post_init__(self):
    task.at_least(self, vocab_size=2, seq_len=2)

  @property
  def symbols(self) -> tuple[str, ...]:
    return (task.BLANK, *(f"t{i}" for i in range(self.vocab_size - 1)))

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
    tokens = np.zeros(self.seq_len, np.int32)
    tokens[:-1] = 1 + random.randint(self.vocab_size - 1, size=self.seq_len - 1)
    return tokens, tokens, np.ones(self.seq_len, np.float32)
