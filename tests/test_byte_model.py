"""The byte model against the formula computed by dictionaries, and against known entropies."""

import collections
import math

import pytest

from llm_jax.analysis.byte_model import END, SYMBOLS, bits_per_byte
from llm_jax.errors import UserError


def slow_bits_per_byte(train, validation, order):
  """Witten-Bell interpolation written as it is defined, one symbol at a time."""
  followers = collections.defaultdict(collections.Counter)
  for text in train:
    symbols = [END] * order + list(text.encode()) + [END]
    for place in range(order, len(symbols)):
      for length in range(order + 1):
        followers[tuple(symbols[place - length : place])][symbols[place]] += 1

  def probability(symbol, context):
    lower = probability(symbol, context[1:]) if context else 1 / SYMBOLS
    seen = followers.get(context)
    if not seen:
      return lower
    return (seen[symbol] + len(seen) * lower) / (seen.total() + len(seen))

  bits = 0.0
  for text in validation:
    symbols = [END] * order + list(text.encode()) + [END]
    for place in range(order, len(symbols)):
      bits -= math.log2(probability(symbols[place], tuple(symbols[place - order : place])))
  return bits / sum(len(text.encode()) for text in validation)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_the_vectorised_model_equals_the_definition(order):
  train = ["the cat sat on the mat", "that hat", "", "über alles: ÿ"]
  validation = ["the bat sat", "über-cat zz", "t"]
  expected = slow_bits_per_byte(train, validation, order)
  assert bits_per_byte(train, validation, order) == pytest.approx(expected, rel=1e-12)


def test_a_text_that_repeats_costs_little_and_only_from_its_order_on():
  train, validation = ["abcb" * 20000], ["abcb" * 500]
  assert bits_per_byte(train, validation, 2) < 0.02
  assert bits_per_byte(train, validation, 1) == pytest.approx(0.5, abs=0.02)  # b: then a or c


def test_the_end_of_each_document_costs_bits():
  train = ["aaaa" * 1000]
  whole, halves = bits_per_byte(train, ["aa" * 50], 1), bits_per_byte(train, ["a" * 50] * 2, 1)
  assert halves > whole + 0.05


def test_a_model_without_text_or_of_an_unknown_order_is_refused():
  with pytest.raises(UserError, match="0 to 6, found 7"):
    bits_per_byte(["a"], ["a"], 7)
  with pytest.raises(UserError, match="at least one byte"):
    bits_per_byte(["a"], [""], 1)
  with pytest.raises(UserError, match="training documents"):
    bits_per_byte([], ["a"], 1)
