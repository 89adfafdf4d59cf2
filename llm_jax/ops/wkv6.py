"""The recurrence of RWKV-5 and RWKV-6: a matrix of sums of outer products, decaying row by row.

Legend: B batch, T position, H heads, K key channel, J value channel, N chunks, C position in a
chunk.
"""

import functools

import jax
import jax.numpy as jnp

from llm_jax.ops.decayed_products import Borders, decayed_products, earlier, later, run, scan_chunks


def _reference(r_BTHK, log_decay_BTHK, k_BTHK, v_BTHJ, bonus_HK, state_BHKJ, starts_BT):
  """The definition: one token after another."""

  def step(state_BHKJ, at):
    r_BHK, log_decay_BHK, k_BHK, v_BHJ, start_B = at
    state_BHKJ = jnp.where(start_B[:, None, None, None], 0, state_BHKJ)
    outer_BHKJ = k_BHK[..., None] * v_BHJ[..., None, :]
    seen_BHKJ = state_BHKJ + bonus_HK[None, :, :, None] * outer_BHKJ
    y_BHJ = jnp.einsum("bhk,bhkj->bhj", r_BHK, seen_BHKJ)
    return jnp.exp(log_decay_BHK)[..., None] * state_BHKJ + outer_BHKJ, y_BHJ

  steps = [jnp.moveaxis(x, 1, 0) for x in (r_BTHK, log_decay_BTHK, k_BTHK, v_BTHJ, starts_BT)]
  state_BHKJ, y_TBHJ = jax.lax.scan(step, state_BHKJ, steps)
  return jnp.moveaxis(y_TBHJ, 0, 1), state_BHKJ


def _chunk(bonus_HK, state_BHKJ, at):
  """All tokens of a chunk at once, from the state before it."""
  r_BHCK, log_decay_BHCK, k_BHCK, v_BHCJ, starts_BC = at
  borders = Borders(log_decay_BHCK, starts_BC)
  # A token's query decays by what stands before it: as if it were its predecessor's.
  p_XYBHCC, left_BHCK = decayed_products(later(r_BHCK)[None], k_BHCK[None], jnp.exp(log_decay_BHCK))
  y_BHCJ = jnp.where(borders.same_B1CC, earlier(p_XYBHCC[0, 0]), 0) @ v_BHCJ
  y_BHCJ += (r_BHCK * bonus_HK[None, :, None] * k_BHCK).sum(-1, keepdims=True) * v_BHCJ
  before_BHCK = r_BHCK * jnp.exp(earlier(borders.summed_BHCK))
  y_BHCJ += jnp.where(borders.from_state_B1C1, before_BHCK, 0) @ state_BHKJ
  return borders.kept(state_BHKJ) + borders.added(k_BHCK, left_BHCK, v_BHCJ), y_BHCJ


def _chunked(r_BTHK, log_decay_BTHK, k_BTHK, v_BTHJ, bonus_HK, state_BHKJ, starts_BT):
  """Matrix products inside chunks, a scan from chunk to chunk."""
  inputs = (r_BTHK, log_decay_BTHK, k_BTHK, v_BTHJ, starts_BT.astype(jnp.int32))
  return scan_chunks(functools.partial(_chunk, bonus_HK), inputs, state_BHKJ)


_FORMS = {"reference": _reference, "chunked": _chunked}


def wkv6(
  r_BTHK: jax.Array,
  log_decay_BTHK: jax.Array,
  k_BTHK: jax.Array,
  v_BTHJ: jax.Array,
  bonus_HK: jax.Array,
  state_BHKJ: jax.Array,
  starts_BT: jax.Array | None = None,
  real_BT: jax.Array | None = None,
  *,
  implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
  """y_t = r_t (S_{t-1} + diag(u) k_t v_t^T);  S_t = diag(w_t) S_{t-1} + k_t v_t^T.

  Args:
    r_BTHK, k_BTHK, v_BTHJ: receptances, keys, values.
    log_decay_BTHK: log w_t, at most 0, down to any depth; RWKV-5's is the same for every t.
    bonus_HK: u, the weight of a token's own key in its output.
    state_BHKJ: S before the first token, float32.
    starts_BT: True where the past is forgotten before the token; None: nowhere.
    real_BT: False at padding, which changes no state; None: all real.
    implementation: "reference" (scan over tokens), "chunked" (matrix products) or "auto".

  Returns:
    y_BTHJ in v's dtype, and the state after the last token that is not padding. All in between
    is float32.

  Source: Peng et al. 2024, arXiv:2404.05892; the PyPI package rwkv 0.8.32, rwkv/model.py
  (att_seq_v5_2, att_seq_v6_0).
  """
  if real_BT is not None:
    real_BT11 = real_BT[:, :, None, None]
    log_decay_BTHK = jnp.where(real_BT11, log_decay_BTHK, 0)
    k_BTHK = jnp.where(real_BT11, k_BTHK, 0)
  inputs = (r_BTHK, log_decay_BTHK, k_BTHK, v_BTHJ, bonus_HK)
  return run("wkv6", _FORMS, inputs, state_BHKJ, starts_BT, implementation)
