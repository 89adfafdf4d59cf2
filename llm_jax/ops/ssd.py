"""Mamba-2's state space duality: a matrix-valued state with one scalar decay a head.

Legend: B batch, T position, H heads, K head size, G groups of heads that share their maps, R heads
of a group (H = G R), N state, C chunk, L and S positions in a chunk.
"""

import jax
import jax.numpy as jnp

from llm_jax.errors import unknown
from llm_jax.ops.forms import note

_CHUNK = 64  # tokens whose pairs are computed as a matrix; measured beside "auto"


def _reference(x_BTGRK, log_BTGR, B_BTGN, C_BTGN, keep_BT, initial_BGRKN):
  """The definition, one token after the other."""

  def step(h_BGRKN, token):
    x_BGRK, log_BGR, B_BGN, C_BGN, keep_B = token
    decay_BGR = jnp.exp(log_BGR) * keep_B[:, None, None]
    h_BGRKN = decay_BGR[..., None, None] * h_BGRKN
    h_BGRKN = h_BGRKN + x_BGRK[..., None] * B_BGN[:, :, None, None]
    return h_BGRKN, jnp.sum(h_BGRKN * C_BGN[:, :, None, None], axis=-1)

  tokens = (x_BTGRK, log_BTGR, B_BTGN, C_BTGN, keep_BT)
  tokens = tuple(jnp.moveaxis(a, 1, 0) for a in tokens)
  final_BGRKN, y_TBGRK = jax.lax.scan(step, initial_BGRKN, tokens)
  return jnp.moveaxis(y_TBGRK, 0, 1), final_BGRKN


def _chunked(x_BTGRK, log_BTGR, B_BTGN, C_BTGN, keep_BT, initial_BGRKN):
  """Matrix products within chunks, and a scan over the states between them."""
  length = x_BTGRK.shape[1]
  size = min(_CHUNK, length)
  chunks = -(-length // size)

  def split(a_BT, fill=0):
    """Padding adds nothing and decays nothing."""
    pad = ((0, 0), (0, chunks * size - length)) + ((0, 0),) * (a_BT.ndim - 2)
    padded = jnp.pad(a_BT, pad, constant_values=fill)
    return padded.reshape(a_BT.shape[0], chunks, size, *a_BT.shape[2:])

  x_BCLGRK, B_BCLGN, C_BCLGN = map(split, (x_BTGRK, B_BTGN, C_BTGN))
  log_BCGRL = jnp.moveaxis(split(log_BTGR), 2, -1)
  document_BCL = jnp.cumsum(~split(keep_BT, True), axis=2)  # 0: that of the chunk before
  decay_BCGRLS = _decay_between(log_BCGRL, document_BCL)

  scores_BCGLS = jnp.einsum("bclgn,bcsgn->bcgls", C_BCLGN, B_BCLGN)
  weights_BCGRLS = scores_BCGLS[:, :, :, None] * decay_BCGRLS
  y_BCLGRK = jnp.einsum("bcgrls,bcsgrk->bclgrk", weights_BCGRLS, x_BCLGRK)

  to_end_BCSGR = jnp.moveaxis(decay_BCGRLS[..., -1, :], -1, 2)
  made_BCGRKN = jnp.einsum("bcsgrk,bcsgn->bcgrkn", x_BCLGRK * to_end_BCSGR[..., None], B_BCLGN)
  from_start_BCGRL = jnp.exp(jnp.cumsum(log_BCGRL, axis=-1))
  from_start_BCGRL *= (document_BCL == 0)[:, :, None, None]

  def chunk(h_BGRKN, inputs):
    decay_BGR, made_BGRKN = inputs
    return decay_BGR[..., None, None] * h_BGRKN + made_BGRKN, h_BGRKN

  inputs = jnp.moveaxis(from_start_BCGRL[..., -1], 1, 0), jnp.moveaxis(made_BCGRKN, 1, 0)
  final_BGRKN, entry_CBGRKN = jax.lax.scan(chunk, initial_BGRKN, inputs)
  carried_BCLGRK = jnp.einsum("bclgn,cbgrkn->bclgrk", C_BCLGN, entry_CBGRKN)
  y_BCLGRK += carried_BCLGRK * jnp.moveaxis(from_start_BCGRL, -1, 2)[..., None]
  return y_BCLGRK.reshape(x_BTGRK.shape[0], chunks * size, *x_BTGRK.shape[2:])[:, :length], (
    final_BGRKN
  )


def _decay_between(log_BCGRL, document_BCL):
  """What is left at position L of what was added at S: 0 if S is later or in another document.

  The decays of the positions between are added for each pair. As differences of one running sum,
  a weak decay after strong ones would keep the rounding error of their sum.
  """
  size = log_BCGRL.shape[-1]
  later_LS = jnp.tri(size, size, -1, bool)
  logs_BCGRLS = jnp.where(later_LS[None, None, None, None], log_BCGRL[..., None], 0)
  total_BCGRLS = jnp.cumsum(logs_BCGRLS, axis=-2)
  same_BCLS = document_BCL[..., :, None] == document_BCL[..., None, :]
  seen_BCLS = same_BCLS & jnp.tri(size, dtype=bool)[None, None]
  return jnp.exp(total_BCGRLS) * seen_BCLS[:, :, None, None]


_FORMS = {"reference": _reference, "chunked": _chunked}


def ssd(
  x_BTHK: jax.Array,
  dt_BTH: jax.Array,
  A_H: jax.Array,
  B_BTGN: jax.Array,
  C_BTGN: jax.Array,
  initial_BHKN: jax.Array | None = None,
  *,
  reset_BT: jax.Array | None = None,
  implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
  """h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T and y_t = h_t C_t, for each head.

  Args:
    x_BTHK: inputs.
    dt_BTH: step sizes, at least 0; 0 passes over a token (padding) and leaves h as it is.
    A_H: negative.
    B_BTGN, C_BTGN: input and output maps; H is a multiple of G, and head h reads group h G // H.
    initial_BHKN: h_{-1}; zeros if None.
    reset_BT: True where a document starts: h_{t-1} counts as 0 there.
    implementation: "reference" (lax.scan), "chunked" (matrix products) or "auto".

  Returns:
    y_BTHK in x's dtype, and h_{T-1} as (B, H, K, N) float32, in which everything is computed.

  Raises:
    ValueError: the heads are no multiple of the groups.

  Source: Dao & Gu 2024, arXiv:2405.21060, section 6 (the chunked form) and eq. 1 with B
  discretised by Euler's rule.
  """
  if implementation == "auto":
    # Forward + backward on one CPU core, B 4, T 256, 8 heads of 64, N 128, fastest of 6: reference
    # 719 ms (547 MB of temporaries); chunks of 32 46 (71), of 64 42 (44), of 128 73 (44). With
    # decays as differences of running sums 43, 36 and 65, but at step sizes up to 3 the error of
    # the gradients is 36e-6 instead of 4e-7 in chunks of 64.
    implementation = "chunked" if x_BTHK.shape[1] > 1 else "reference"
  if implementation not in _FORMS:
    raise unknown("implementation of ssd", implementation, ("auto", *_FORMS))
  batch, length, heads, head_dim = x_BTHK.shape
  groups, states = B_BTGN.shape[2:]
  if heads % groups:
    raise ValueError(f"{heads} heads cannot share the maps of {groups} groups evenly")
  grouped = (groups, heads // groups)
  dt_BTH, A_H = dt_BTH.astype(jnp.float32), A_H.astype(jnp.float32)
  x_BTHK32 = x_BTHK.astype(jnp.float32) * dt_BTH[..., None]
  if initial_BHKN is None:
    initial_BHKN = jnp.zeros((batch, heads, head_dim, states))
  y_BTGRK, final_BGRKN = _FORMS[note("ssd", implementation)](
    x_BTHK32.reshape(batch, length, *grouped, head_dim),
    (dt_BTH * A_H[None, None]).reshape(batch, length, *grouped),
    B_BTGN.astype(jnp.float32),
    C_BTGN.astype(jnp.float32),
    jnp.ones((batch, length), bool) if reset_BT is None else ~reset_BT,
    initial_BHKN.astype(jnp.float32).reshape(batch, *grouped, head_dim, states),
  )
  y_BTHK = y_BTGRK.reshape(x_BTHK.shape).astype(x_BTHK.dtype)
  return y_BTHK, final_BGRKN.reshape(initial_BHKN.shape)
