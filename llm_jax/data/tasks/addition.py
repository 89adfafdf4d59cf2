"""Addition of two decimal numbers of as many digits.

  1 2 8 + 3 6 7 = 4 9 5 $     next tokens are predicted; those of the sum and "$", its end, count

A number does not begin with 0, but for 0 itself. With `reverse` the sum's last digit comes first,
so that each digit follows from what is there already. The metric counts sums that are right as a
whole: given the right digits before, which is what greedy decoding comes to. Of short numbers there
are few pairs, so held-out ones have been trained on; of longer ones hardly any. By chance: nothing
for whole sums, 1/10 for a digit, less "$" and the first digit of many a sum, which is 1.

Source: Lee et al. 2023, "Teaching arithmetic to small Transformers", arXiv:2307.03381, "plain"
and "reverse", up to 3 digits; they balance the numbers of digits in another way.
"""

import dataclasses

import numpy as np

from llm_jax.data import strings, task

_PLUS, _EQUALS, _END = 11, 12, 13


@dataclasses.dataclass(frozen=True)
class Addition(strings.Strings):
  """Sums whose carries may go far. A length is the number of digits of each number.

  Attributes:
    reverse: whether the sum's last digit comes first.
  """

  longest: int = 3
  held_out_lengths: tuple[int, ...] = (1, 2, 3, 4)
  reverse: bool = False

  METRIC = "exact"
  UNIT = "digits"

  symbols = (task.BLANK, *map(str, range(10)), "+", "=", "$")

  def tokens(self, length: int) -> int:
    return 3 * length + 3

  def example(self, random: np.random.RandomState, length: int):
    digits_2L = random.randint(10, size=(2, length))
    if length > 1:
      digits_2L[:, 0] = 1 + random.randint(9, size=2)
    one, other = ("".join(map(str, row)) for row in digits_2L.tolist())
    total = [int(digit) for digit in str(int(one) + int(other))]
    if self.reverse:
      total = total[::-1]
    question = [*1 + digits_2L[0], _PLUS, *1 + digits_2L[1], _EQUALS]
    sequence = np.array([*question, *(1 + digit for digit in total), _END])
    return task.next_tokens(sequence, np.arange(len(sequence)) >= len(question))
