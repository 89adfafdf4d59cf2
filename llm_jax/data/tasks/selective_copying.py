"""Selective copying (MAD): tokens scattered among blanks are written down in their order.

  _ a _ _ c b copy _ _ _    at the three blanks behind "copy" the answers are a, c, b

Each blank before "copy" stands in front of one of the tokens, drawn evenly, so that the last token
stands right before "copy". Training and held-out examples are alike; the answers alone count.
Chance: 1 in vocab_size - 2, 14 by default.

Source: Poli et al. 2024, arXiv:2403.17844, as athms/mad-lab has it, mad/data/instances.py, after Gu
& Dao 2023, arXiv:2312.00752; varied are vocab_size 32, 64, 128, seq_len 512, 1024, tokens 32, 64,
96, and 6,400 to 800 training examples of 12,800.
"""

import dataclasses

import numpy as np

from llm_jax.data import task
from llm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SelectiveCopying:
  """Copying of what matters.

  Attributes:
    vocab_size: tokens, the blank and "copy".
    seq_len: tokens of an example.
    copied: how many of them are copied.
  """

  vocab_size: int = 16
  seq_len: int = 256
  copied: int = 16

  METRIC = "accuracy"

  def __post_init__(self):
    task.at_least(self, vocab_size=3, copied=1)
    if self.seq_len < 2 * self.copied + 2:
      raise UserError(
        f"{self.copied} tokens, a blank, the sign to copy and {self.copied} answers need a seq_len "
        f"of {2 * self.copied + 2} or more, found {self.seq_len}."
      )

  @property
  def symbols(self) -> tuple[str, ...]:
    return (task.BLANK, *(f"t{i}" for i in range(self.vocab_size - 2)), "copy")

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
    tokens_C = 1 + random.randint(self.vocab_size - 2, size=self.copied)
    blanks = self.seq_len - 2 * self.copied - 1
    before_C = random.multinomial(blanks, np.full(self.copied, 1 / self.copied))
    question = np.zeros(self.copied + blanks + 1, np.int32)
    question[np.cumsum(before_C) + np.arange(self.copied)] = tokens_C
    question[-1] = self.vocab_size - 1
    return task.answered(question, tokens_C, ask=0)
