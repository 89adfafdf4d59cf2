"""The causal convolution and the token shift, against plain sums over each document.

Legend: B batch, T position, D channel, K taps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.contract import document_positions
from llm_jax.ops.shift import causal_convolution, token_shift

B, T, D, K = 3, 12, 5, 4
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
KERNEL = jnp.asarray(RNG.normal(size=(K, D)), jnp.float32)
BIAS = jnp.asarray(RNG.normal(size=D), jnp.float32)
STATE = jnp.asarray(RNG.normal(size=(B, K - 1, D)), jnp.float32)
# padding left; right and in the middle; a whole row of it
RAGGED = jnp.asarray([[0] * 4 + [1] * 8, [1] * 3 + [0] * 2 + [1] * 4 + [0] * 3, [0] * T])
PACKED = jnp.asarray([[1] * 5 + [2] * 7, [0, 1, 2, 2] + [3] * 6 + [0, 0], [4] * T])


def convolve(past, tokens):
  """The definition for one document: `past` stands before its tokens."""
  line = np.concatenate([past, tokens])
  rows = [(line[t : t + K] * np.asarray(KERNEL)).sum(0) for t in range(len(tokens))]
  return np.stack(rows) + np.asarray(BIAS)


def test_packed_documents_are_convolved_each_by_itself():
  y_BTD, state = causal_convolution(X, KERNEL, BIAS, document_positions(PACKED), PACKED)
  assert state is None
  for row in range(B):
    for number in set(PACKED[row].tolist()) - {0}:
      own = np.asarray(PACKED[row] == number)
      expected = convolve(np.zeros((K - 1, D)), np.asarray(X[row])[own])
      np.testing.assert_allclose(np.asarray(y_BTD[row])[own], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [[T], [1] * T, [5, 1, 6]], ids=["whole", "steps", "chunks"])
def test_a_continued_convolution_never_sees_padding(sizes):
  state, parts, start = STATE, [], 0
  for size in sizes:
    columns = slice(start, start + size)
    segments = RAGGED[:, columns]
    y, state = causal_convolution(X[:, columns], KERNEL, BIAS, segments, segments, state)
    parts.append(y)
    start += size
  y_BTD = np.asarray(jnp.concatenate(parts, axis=1))
  for row in range(B):
    real = np.asarray(RAGGED[row] > 0)
    tokens = np.asarray(X[row])[real]
    if len(tokens):
      expected = convolve(STATE[row], tokens)
      np.testing.assert_allclose(y_BTD[row][real], expected, rtol=1e-5, atol=1e-5)
    line = np.concatenate([STATE[row], tokens])
    np.testing.assert_array_equal(state[row], line[-(K - 1) :])


@pytest.mark.parametrize("length", [1, T])
def test_the_state_keeps_its_own_precision(length):
  """A float32 state under half-precision activations is not rounded by a row of padding."""
  segments, x = RAGGED[:, :length], X[:, :length].astype(jnp.bfloat16)
  y, state = causal_convolution(x, KERNEL, None, segments, segments, STATE)
  assert y.dtype == jnp.bfloat16 and state.dtype == jnp.float32
  np.testing.assert_array_equal(state[2], STATE[2])


def test_a_continued_token_shift_sees_the_last_real_token():
  past = STATE[:, -1]
  whole, state = token_shift(X, RAGGED, RAGGED, past)
  steps, stepped = [], past
  for t in range(T):
    y, stepped = token_shift(X[:, t : t + 1], RAGGED, RAGGED[:, t : t + 1], stepped)
    steps.append(y)
  np.testing.assert_array_equal(state, stepped)
  for row in range(B):
    real = np.asarray(RAGGED[row] > 0)
    line = np.concatenate([past[row : row + 1], np.asarray(X[row])[real]])
    np.testing.assert_array_equal(state[row], line[-1])
    for y_BTD in (whole, jnp.concatenate(steps, axis=1)):
      np.testing.assert_array_equal(np.asarray(y_BTD[row])[real], line[:-1])


def test_packed_documents_start_the_token_shift_at_zero():
  positions_BT = document_positions(PACKED)
  y_BTD, state = token_shift(X, positions_BT, PACKED)
  assert state is None
  for row, t in zip(*np.nonzero(np.asarray(PACKED)), strict=True):
    expected = X[row, t - 1] if positions_BT[row, t] else np.zeros(D)
    np.testing.assert_array_equal(y_BTD[row, t], expected)


def test_a_document_start_stops_the_gradient_of_the_convolution():
  loss = lambda x: causal_convolution(x, KERNEL, BIAS, document_positions(PACKED), PACKED)[0][0, 5]
  gradient_BTD = jax.grad(lambda x: loss(x).sum())(X)
  np.testing.assert_allclose(gradient_BTD[0, 5], KERNEL[-1], rtol=1e-6)
  assert not np.any(gradient_BTD[0, :5]) and not np.any(gradient_BTD[1:])


def test_a_state_of_another_kernel_is_refused():
  with pytest.raises(ValueError, match="remember 3 tokens"):
    causal_convolution(X, KERNEL, BIAS, RAGGED, RAGGED, STATE[:, :2])
