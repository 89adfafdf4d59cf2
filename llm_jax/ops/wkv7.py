"""RWKV-7's recurrence: the generalised delta rule on a matrix-valued state.

Legend: B batch, T position, H heads, K key channel, J value channel, N chunks, C position in a
chunk.
"""

import jax
import jax.numpy as jnp

from llm_jax.ops.decayed_products import Borders, decayed_products, earlier, later, run, scan_chunks


def _reference(r_BTHK, log_decay_BTHK, k_BTHK, v_BTHJ, a_BTHK, b_BTHK, state, starts_BT):
  """The definition: one token after another."""

  def step(state_BHKJ, at):
    r_BHK, log_decay_BHK, k_BHK, v_BHJ, a_BHK, b_BHK, start_B = at
    state_BHKJ = jnp.where(start_B[:, None, None, None], 0, state_BHKJ)
    read_BHJ = jnp.einsum("bhk,bhkj->bhj", a_BHK, state_BHKJ)
    state_BHKJ = (
      jnp.exp(log_decay_BHK)[..., None] * state_BHKJ
      + b_BHK[..., None] * read_BHJ[..., None, :]
      + k_BHK[..., None] * v_BHJ[..., None, :]
    )
    return state_BHKJ, jnp.einsum("bhk,bhkj->bhj", r_BHK, state_BHKJ)

  inputs = (r_BTHK, log_decay_BTHK, k_BTHK, v_BTHJ, a_BTHK, b_BTHK, starts_BT)
  state, y_TBHJ = jax.lax.scan(step, state, [jnp.moveaxis(x, 1, 0) for x in inputs])
  return jnp.moveaxis(y_TBHJ, 0, 1), state


@jax.custom_vjp
def unit_inverse(a_CC: jax.Array) -> jax.Array:
  """(I - A)^{-1} of strictly lower triangular matrices A (..., C, C).

  The inverse of [[P, 0], [-L, Q]] is [[P', 0], [Q' L P', Q']]: diagonal blocks of twice the size
  at each round. The product (I + A)(I + A^2)(I + A^4)... is the same in exact numbers, but its
  powers of A grow and cancel where neighbouring tokens are alike.
  """
  size = a_CC.shape[-1]
  place_C = jnp.arange(size)
  inverse_CC = jnp.broadcast_to(jnp.eye(size, dtype=a_CC.dtype), a_CC.shape)
  for half in (1 << n for n in range((size - 1).bit_length())):
    block_C = place_C // half
    joins = (block_C[:, None] // 2 == block_C[None] // 2) & (block_C[:, None] > block_C[None])
    inverse_CC += inverse_CC @ jnp.where(joins, a_CC, 0) @ inverse_CC
  return inverse_CC


def _unit_inverse_forward(a_CC):
  inverse_CC = unit_inverse(a_CC)
  return inverse_CC, inverse_CC


def _unit_inverse_backward(inverse_CC, gradient_CC):
  transposed_CC = inverse_CC.swapaxes(-1, -2)
  return (jnp.tril(transposed_CC @ gradient_CC @ transposed_CC, -1),)


unit_inverse.defvjp(_unit_inverse_forward, _unit_inverse_backward)


def _chunk(state_BHKJ, at):
  """All tokens of a chunk at once, from the state before it.

  What each token reads, a_t S_{t-1}, depends on what the earlier ones of the chunk read: a
  triangular system. Solved, it is as if the chunk only added outer products (the WY form).
  """
  r_BHCK, log_decay_BHCK, k_BHCK, v_BHCJ, a_BHCK, b_BHCK, starts_BC = at
  borders = Borders(log_decay_BHCK, starts_BC)
  # a reads before the token's own decay: as if it were its predecessor's.
  queries, keys = jnp.stack([later(a_BHCK), r_BHCK]), jnp.stack([b_BHCK, k_BHCK])
  p, left_BHCK = decayed_products(queries, keys, jnp.exp(log_decay_BHCK))
  (ab_BHCC, ak_BHCC), (rb_BHCC, rk_BHCC) = jnp.where(
    borders.same_B1CC, p.at[0].set(earlier(p[0])), 0
  )
  seen, summed_BHCK = borders.from_state_B1C1, borders.summed_BHCK
  before_BHCK = jnp.where(seen, a_BHCK * jnp.exp(earlier(summed_BHCK)), 0)
  read_BHCJ = unit_inverse(ab_BHCC) @ (before_BHCK @ state_BHKJ + ak_BHCC @ v_BHCJ)
  after_BHCK = jnp.where(seen, r_BHCK * jnp.exp(summed_BHCK), 0)
  y_BHCJ = after_BHCK @ state_BHKJ + rb_BHCC @ read_BHCJ + rk_BHCC @ v_BHCJ
  added_BHKJ = borders.added(b_BHCK, left_BHCK, read_BHCJ)
  added_BHKJ += borders.added(k_BHCK, left_BHCK, v_BHCJ)
  return borders.kept(state_BHKJ) + added_BHKJ, y_BHCJ


def _chunked(r_BTHK, log_decay_BTHK, k_BTHK, v_BTHJ, a_BTHK, b_BTHK, state, starts_BT):
  """Matrix products inside chunks, a scan from chunk to chunk."""
  inputs = (r_BTHK, log_decay_BTHK, k_BTHK, v_BTHJ, a_BTHK, b_BTHK, starts_BT.astype(jnp.int32))
  return scan_chunks(_chunk, inputs, state)


_FORMS = {"reference": _reference, "chunked": _chunked}


def wkv7(
  r_BTHK: jax.Array,
  log_decay_BTHK: jax.Array,
  k_BTHK: jax.Array,
  v_BTHJ: jax.Array,
  a_BTHK: jax.Array,
  b_BTHK: jax.Array,
  state_BHKJ: jax.Array,
  starts_BT: jax.Array | None = None,
  real_BT: jax.Array | None = None,
  *,
  implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
  """S_t = (diag(w_t) + b_t a_t^T) S_{t-1} + k_t v_t^T;  y_t = r_t S_t.

  Args:
    r_BTHK, k_BTHK, v_BTHJ: receptances, keys, values.
    log_decay_BTHK: log w_t, at most 0, down to any depth.
    a_BTHK, b_BTHK: what is read of the state and where it is added again: -kappa and kappa times
      the learning rate, with kappa of length 1, forget along kappa.
    state_BHKJ: S before the first token, float32.
    starts_BT: True where the past is forgotten before the token; None: nowhere.
    real_BT: False at padding, which changes no state; None: all real.
    implementation: "reference" (scan over tokens), "chunked" (matrix products) or "auto".

  Returns:
    y_BTHJ in v's dtype, and the state after the last token that is not padding. All in between
    is float32.

  Source: Peng et al. 2025, arXiv:2503.14456; the PyPI package rwkv 0.8.32, rwkv/model.py
  (RWKV_x070_TMix_one; there S is transposed).
  """
  if real_BT is not None:
    real_BT11 = real_BT[:, :, None, None]
    log_decay_BTHK, k_BTHK, b_BTHK = (
      jnp.where(real_BT11, x, 0) for x in (log_decay_BTHK, k_BTHK, b_BTHK)
    )
  inputs = (r_BTHK, log_decay_BTHK, k_BTHK, v_BTHJ, a_BTHK, b_BTHK)
  return run("wkv7", _FORMS, inputs, state_BHKJ, starts_BT, implementation)
