"""The matrix-valued recurrences of RWKV-5, 6 and 7: their definitions, chunks, and strong decays.

Legend: B batch, T position, H heads, K key channel, J value channel, C position in a chunk.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.ops.wkv6 import wkv6
from llm_jax.ops.wkv7 import unit_inverse, wkv7

B, T, H, K, J = 2, 37, 2, 8, 4
OPS = {"wkv6": wkv6, "wkv7": wkv7}
every_op = pytest.mark.parametrize("name", OPS)


def example(name, lowest, shape=(B, T, H)):
  """The op's arrays, with log decays of every size from -1e-3 to `lowest`, and a state."""
  keys = iter(jax.random.split(jax.random.key(0), 8))
  normal = lambda last=K: jax.random.normal(next(keys), (*shape, last))
  size = jax.random.uniform(next(keys), (*shape, K), minval=np.log(1e-3), maxval=np.log(-lowest))
  arrays = [normal(), -jnp.exp(size), normal(), normal(J)]
  state_BHKJ = jax.random.normal(next(keys), (shape[0], shape[2], K, J))
  if name == "wkv6":
    return (*arrays, jax.random.normal(next(keys), (shape[2], K)), state_BHKJ)
  kappa = normal()
  kappa /= jnp.linalg.norm(kappa, axis=-1, keepdims=True)
  return (*arrays, -kappa, kappa * jax.nn.sigmoid(normal()), state_BHKJ)


def masks():
  """Documents that start in the first chunk, later and twice in one; padding inside and last."""
  starts, real = np.zeros((B, T), bool), np.ones((B, T), bool)
  starts[0, 5] = starts[0, 20] = starts[0, 23] = starts[1, 33] = True
  real[1, 10:14] = real[0, -3:] = False
  return jnp.asarray(starts), jnp.asarray(real)


@jax.jit(static_argnames=("name", "form"))
def value_and_gradients(name, form, arrays, starts_BT=None, real_BT=None):
  """Outputs and last state, and the gradients of all arrays of a loss of both."""

  def loss(arrays):
    y_BTHJ, state = OPS[name](*arrays, starts_BT, real_BT, implementation=form)
    weights = jnp.cos(jnp.arange(y_BTHJ.size, dtype=jnp.float32)).reshape(y_BTHJ.shape)
    return (y_BTHJ * weights).sum() + jnp.square(state).sum(), (y_BTHJ, state)

  gradients, values = jax.grad(loss, has_aux=True)(arrays)
  return values, gradients


def assert_close(found, expected, tolerance):
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    scale = float(jnp.abs(b).max())
    assert scale > 0
    np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)


def test_the_output_of_wkv6_is_the_decayed_sum_of_the_paper():
  r, w, k, v, u, state = (np.asarray(a, np.float64) for a in example("wkv6", -2.0))
  y_BTHJ, last = wkv6(*example("wkv6", -2.0), implementation="reference")
  for t in (0, 1, T - 1):
    total = np.einsum("bhk,bhkj->bhj", r[:, t] * np.exp(w[:, :t].sum(1)), state)
    total += np.einsum("bhk,hk,bhk,bhj->bhj", r[:, t], u, k[:, t], v[:, t])
    for s in range(t):
      decayed = np.exp(w[:, s + 1 : t].sum(1)) * k[:, s]
      total += (r[:, t] * decayed).sum(-1, keepdims=True) * v[:, s]
    np.testing.assert_allclose(y_BTHJ[:, t], total, rtol=1e-4, atol=1e-5)
  ends = [
    np.einsum("bhk,bhj->bhkj", np.exp(w[:, s + 1 :].sum(1)) * k[:, s], v[:, s]) for s in range(T)
  ]
  expected = np.exp(w.sum(1))[..., None] * state + sum(ends)
  np.testing.assert_allclose(last, expected, rtol=1e-4, atol=1e-5)


def test_the_state_of_wkv7_is_the_product_of_the_papers_transition_matrices():
  r, w, k, v, a, b, state = (np.asarray(x, np.float64) for x in example("wkv7", -0.6))
  y_BTHJ, last = wkv7(*example("wkv7", -0.6), implementation="reference")
  for row, head in ((0, 0), (1, 1)):
    s = state[row, head]
    for t in range(T):
      at = (row, t, head)
      s = (np.diag(np.exp(w[at])) + np.outer(b[at], a[at])) @ s + np.outer(k[at], v[at])
      np.testing.assert_allclose(y_BTHJ[at], r[at] @ s, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(last[row, head], s, rtol=1e-4, atol=1e-4)


@every_op
@pytest.mark.parametrize("lowest", [-0.6, -70.0])
def test_chunks_equal_the_reference_in_value_gradient_and_state(name, lowest):
  arrays = example(name, lowest)
  fast = value_and_gradients(name, "chunked", arrays, *masks())
  slow = value_and_gradients(name, "reference", arrays, *masks())
  assert_close(fast, slow, 2e-6 if lowest > -1 else 2e-5)


@every_op
def test_decays_to_1e_8_over_4096_steps_neither_overflow_nor_drift(name):
  arrays = example(name, np.log(1e-8), (1, 4096, 1))
  fast = value_and_gradients(name, "chunked", arrays)
  assert_close(fast, value_and_gradients(name, "reference", arrays), 2e-5)


@every_op
@pytest.mark.parametrize("strong", [-18.0, -148.0, -3000.0, -3e37, -np.inf])
def test_a_weak_decay_among_strong_ones_is_as_exact_as_in_the_reference(name, strong):
  r, _, *rest = example(name, -1.0)
  half = jax.random.bernoulli(jax.random.key(1), 0.5, r.shape)
  arrays = (r, jnp.where(half, strong, -1e-3), *rest)
  fast = value_and_gradients(name, "chunked", arrays)
  assert_close(fast, value_and_gradients(name, "reference", arrays), 2e-6)


@every_op
def test_bfloat16_inputs_are_summed_in_float32(name):
  *arrays, state = example(name, -70.0)
  rounded = [a.astype(jnp.bfloat16) for a in arrays]
  y_BTHJ, last = OPS[name](*rounded, state, *masks(), implementation="chunked")
  exact = [a.astype(jnp.float32) for a in rounded]
  z_BTHJ, expected = OPS[name](*exact, state, *masks(), implementation="chunked")
  assert y_BTHJ.dtype == jnp.bfloat16
  np.testing.assert_array_equal(y_BTHJ, z_BTHJ.astype(jnp.bfloat16))
  np.testing.assert_array_equal(last, expected)


@every_op
@pytest.mark.parametrize("form", ["reference", "chunked"])
def test_padding_leaves_the_state_bit_for_bit(name, form):
  arrays = example(name, -2.0)
  real_BT = jnp.ones((B, T), bool).at[1].set(False)
  _, last = OPS[name](*arrays, None, real_BT, implementation=form)
  np.testing.assert_array_equal(last[1], arrays[-1][1])
  assert np.any(last[0] != arrays[-1][0])


def test_a_repeated_token_is_forgotten_as_exactly_as_the_reference_does():
  """All keys alike, at full rate and without decay: where powers of the triangular matrix grow."""
  r, _, _, v, a, _, state = example("wkv7", -0.6)
  a_BTHK = jnp.broadcast_to(a[:, :1], a.shape)
  arrays = (r, jnp.zeros_like(r), -a_BTHK, v, a_BTHK, -a_BTHK, state)
  y_BTHJ, last = wkv7(*arrays, implementation="chunked")
  z_BTHJ, expected = wkv7(*arrays, implementation="reference")
  np.testing.assert_allclose(y_BTHJ, z_BTHJ, atol=1e-5)
  np.testing.assert_allclose(last, expected, atol=1e-5)


@pytest.mark.parametrize("size", [1, 5, 16])
def test_the_inverse_of_a_unit_triangle_and_its_gradient(size):
  a_CC = jnp.tril(jax.random.normal(jax.random.key(size), (3, size, size)), -1)
  exact = lambda a_CC: jnp.linalg.inv(jnp.eye(size)[None] - jnp.tril(a_CC, -1))
  np.testing.assert_allclose(unit_inverse(a_CC), exact(a_CC), rtol=1e-3, atol=1e-3)
  weigh = lambda f: jax.grad(lambda a_CC: jnp.cos(f(a_CC)).sum())(a_CC)
  if size < 16:  # random triangles of size 16 have inverses of size 1e3: no gradient to compare
    np.testing.assert_allclose(weigh(unit_inverse), weigh(exact), rtol=1e-3, atol=1e-3)
