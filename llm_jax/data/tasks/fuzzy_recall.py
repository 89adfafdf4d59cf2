"""Fuzzy in-context recall (MAD): recall of keys and values that are several tokens long.

  k2 k5 v1 k4 v6 v2 v3 .. k2 k5 v1    behind the second k2 k5 the answer is v1

A key is one to three different tokens in a row, a value likewise; lengths are drawn evenly, and a
key of an example has one value. The last pair is one that stands somewhere before it. In training
every token is predicted from those before it. Held out, all keys have the greatest length, and the
tokens of values whose keys have been read before count alone. Blanks fill the row from the left.
Chance: about 1 in 8, the number of values' tokens.

Source: Poli et al. 2024, arXiv:2403.17844, as athms/mad-lab has it, mad/data/instances.py; varied
are vocab_size 32, 64, 128, seq_len 256, 512, 1024, and 6,400 to 800 training examples of 12,800.
There, now and then, the pair that is asked for has not been shown; here it always has.
"""

import dataclasses

import numpy as np

from llm_jax.data import task
from llm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class FuzzyRecall:
  """Recall by keys of several tokens.

  Attributes:
    vocab_size: keys' and values' tokens and the blank.
    seq_len: tokens of an example.
    key_tokens, value_tokens: the greatest lengths of a key and of a value.
  """

  vocab_size: int = 16
  seq_len: int = 128
  key_tokens: int = 3
  value_tokens: int = 3

  METRIC = "accuracy"

  def __post_init__(self):
    task.at_least(self, key_tokens=1, value_tokens=1)
    longest = self.key_tokens + self.value_tokens
    if self.seq_len < 3 * longest:
      raise UserError(
        f"Pairs of up to {longest} tokens need a seq_len of {3 * longest} or more, found "
        f"{self.seq_len}."
      )
    if self._sizes[0] < self.key_tokens or self._sizes[1] < self.value_tokens:
      raise UserError(
        "The tokens of a key are different, and those of a value: half of vocab_size - 1 must be "
        f"key_tokens={self.key_tokens} or more, the other half value_tokens={self.value_tokens}; "
        f"found {self._sizes[0]} and {self._sizes[1]} of vocab_size={self.vocab_size}."
      )

  @property
  def _sizes(self) -> tuple[int, int]:
    """Tokens of keys and of values."""
    both = self.vocab_size - 1
    return both // 2, both - both // 2

  @property
  def symbols(self) -> tuple[str, ...]:
    kinds = zip("kv", self._sizes, strict=True)
    return (task.BLANK, *(f"{kind}{i}" for kind, size in kinds for i in range(size)))

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
    keys, values = self._sizes
    most = 1 + self.seq_len // 2
    shortest = 1 if group is None else self.key_tokens
    pairs = zip(
      _motifs(random, most, 1, keys, shortest, self.key_tokens),
      _motifs(random, most, 1 + keys, values, 1, self.value_tokens),
      strict=True,
    )
    asked, answer = next(pairs)
    longest, question = self.key_tokens + self.value_tokens, len(asked) + len(answer)
    end = self.seq_len - question - longest  # a pair that begins before it leaves room
    place = random.randint(min(end - longest, self.seq_len - 2 * question) + 1)
    known, shown, sequence, counted = {asked: answer}, set(), [], []
    for key, value in pairs:
      if len(sequence) >= end:
        break
      if len(sequence) >= place and asked not in shown:
        key = asked
      value = known.setdefault(key, value)
      sequence += key + value
      counted += [0] * len(key) + [key in shown] * len(value)
      shown.add(key)
    sequence += asked + answer
    counted += [0] * len(asked) + [1] * len(answer)
    before = self.seq_len + 1 - len(sequence)
    counted = [1] * (before + len(counted)) if group is None else [0] * before + counted
    return task.next_tokens([0] * before + sequence, counted)


def _motifs(random, count: int, first: int, size: int, shortest: int, longest: int):
  """An iterator of tuples of different ids from `first` on, of lengths drawn evenly."""
  order = random.random_sample((count, size)).argsort(axis=1)[:, :longest] + first
  lengths = random.randint(shortest, longest + 1, size=count)
  return (tuple(row[:n]) for row, n in zip(order.tolist(), lengths.tolist(), strict=True))
