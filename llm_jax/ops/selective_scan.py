"""Mamba's selective scan: a diagonal recurrence whose step size, input and output maps are data.

Legend: B batch, T position, I inner channel, N state, C chunk, S position in a chunk. States are
(B, N, I), channels last: twice as fast on a CPU as the published (B, I, N), because the sum over
N then adds whole vectors.
"""

import jax
import jax.numpy as jnp

from llm_jax.errors import unknown
from llm_jax.ops.forms import note

_CHUNK = 8  # tokens recomputed at a time in the backward pass; measured beside "auto"


def _decay(dt_BI, keep_B, A_NI):
  return jnp.exp(dt_BI[:, None] * A_NI[None]) * keep_B[:, None, None]


def _advance(h_BNI, x_BI, dt_BI, B_BN, keep_B, A_NI):
  """One step of the state."""
  return _decay(dt_BI, keep_B, A_NI) * h_BNI + (dt_BI * x_BI)[:, None] * B_BN[:, :, None]


def _outputs(tokens, A_NI, h_BNI):
  """The definition, one token after the other; tokens are time-major."""

  def step(h_BNI, token):
    x_BI, dt_BI, B_BN, C_BN, keep_B = token
    h_BNI = _advance(h_BNI, x_BI, dt_BI, B_BN, keep_B, A_NI)
    return h_BNI, jnp.sum(h_BNI * C_BN[:, :, None], axis=1)

  return jax.lax.scan(step, h_BNI, tokens)


def _reference(tokens, A_NI, initial_BNI):
  final_BNI, y_TBI = _outputs(tokens, A_NI, initial_BNI)
  return y_TBI, final_BNI


def _associative(tokens, A_NI, initial_BNI):
  """All states at once, composing the maps h -> a h + b pairwise: (T, B, N, I) in memory."""
  x_TBI, dt_TBI, B_TBN, C_TBN, keep_TB = tokens
  decay_TBNI = jax.vmap(_decay, (0, 0, None))(dt_TBI, keep_TB, A_NI)
  input_TBNI = (dt_TBI * x_TBI)[:, :, None] * B_TBN[..., None]
  input_TBNI = input_TBNI.at[0].add(decay_TBNI[0] * initial_BNI)

  def then(first, second):
    return first[0] * second[0], second[0] * first[1] + second[1]

  h_TBNI = jax.lax.associative_scan(then, (decay_TBNI, input_TBNI))[1]
  return jnp.sum(h_TBNI * C_TBN[..., None], axis=2), h_TBNI[-1]


@jax.custom_vjp
def _by_chunks(tokens_CSB, A_NI, initial_BNI):
  """The definition, but the backward pass keeps one state a chunk and recomputes the others."""
  return _by_chunks_forward(tokens_CSB, A_NI, initial_BNI)[0]


def _by_chunks_forward(tokens_CSB, A_NI, initial_BNI):
  def chunk(h_BNI, tokens_SB):
    final_BNI, y_SBI = _outputs(tokens_SB, A_NI, h_BNI)
    return final_BNI, (y_SBI, h_BNI)

  final_BNI, (y_CSBI, entry_CBNI) = jax.lax.scan(chunk, initial_BNI, tokens_CSB)
  return (y_CSBI, final_BNI), (tokens_CSB, A_NI, entry_CBNI)


def _by_chunks_backward(residuals, gradients):
  tokens_CSB, A_NI, entry_CBNI = residuals
  dy_CSBI, dfinal_BNI = gradients
  length = dy_CSBI.shape[1]

  def step(carry, token):
    (dh_BNI, dA_NI, h_BNI), (x_BI, dt_BI, B_BN, C_BN, keep_B, dy_BI, previous_BNI) = carry, token
    dC_BN = jnp.sum(dy_BI[:, None] * h_BNI, axis=2)
    dh_BNI = dh_BNI + dy_BI[:, None] * C_BN[:, :, None]
    dinput_BI = jnp.sum(dh_BNI * B_BN[:, :, None], axis=1)  # of dt * x
    dB_BN = jnp.sum(dh_BNI * (dt_BI * x_BI)[:, None], axis=2)
    dh_BNI = dh_BNI * _decay(dt_BI, keep_B, A_NI)
    dlog_BNI = dh_BNI * previous_BNI  # of dt * A, the logarithm of the decay
    ddt_BI = jnp.sum(dlog_BNI * A_NI[None], axis=1) + dinput_BI * x_BI
    dA_NI = dA_NI + jnp.sum(dlog_BNI * dt_BI[:, None], axis=0)
    return (dh_BNI, dA_NI, previous_BNI), (dinput_BI * dt_BI, ddt_BI, dB_BN, dC_BN)

  def chunk(carry, inputs):
    tokens_SB, dy_SBI, entry_BNI = inputs
    x_SBI, dt_SBI, B_SBN, _, keep_SB = tokens_SB
    last_BNI, previous_SBNI = jax.lax.scan(
      lambda h_BNI, token: (_advance(h_BNI, *token, A_NI), h_BNI),
      entry_BNI,
      (x_SBI, dt_SBI, B_SBN, keep_SB),
      unroll=length,
    )
    (dh_BNI, dA_NI, _), dtokens_SB = jax.lax.scan(
      step,
      (*carry, last_BNI),
      (*tokens_SB, dy_SBI, previous_SBNI),
      reverse=True,
      unroll=length,
    )
    return (dh_BNI, dA_NI), dtokens_SB

  carry = dfinal_BNI, jnp.zeros_like(A_NI)
  inputs = tokens_CSB, dy_CSBI, entry_CBNI
  (dh_BNI, dA_NI), dtokens_CSB = jax.lax.scan(chunk, carry, inputs, reverse=True)
  return (*dtokens_CSB, None), dA_NI, dh_BNI


_by_chunks.defvjp(_by_chunks_forward, _by_chunks_backward)


def _chunked(tokens, A_NI, initial_BNI):
  length = tokens[0].shape[0]
  chunks = -(-length // _CHUNK)

  def split(a_TB, fill=0):
    """Padding has dt = 0 and keep = 1, the identity step."""
    pad = ((0, chunks * _CHUNK - length),) + ((0, 0),) * (a_TB.ndim - 1)
    padded = jnp.pad(a_TB, pad, constant_values=fill)
    return padded.reshape(chunks, _CHUNK, *a_TB.shape[1:])

  tokens_CSB = (*map(split, tokens[:-1]), split(tokens[-1], 1))
  y_CSBI, final_BNI = _by_chunks(tokens_CSB, A_NI, initial_BNI)
  return y_CSBI.reshape(chunks * _CHUNK, *y_CSBI.shape[2:])[:length], final_BNI


_FORMS = {"reference": _reference, "associative": _associative, "chunked": _chunked}


def selective_scan(
  x_BTI: jax.Array,
  dt_BTI: jax.Array,
  A_NI: jax.Array,
  B_BTN: jax.Array,
  C_BTN: jax.Array,
  initial_BNI: jax.Array | None = None,
  *,
  reset_BT: jax.Array | None = None,
  implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
  """h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t and y_t = C_t h_t, for each channel of x.

  Args:
    x_BTI: inputs.
    dt_BTI: step sizes, at least 0; 0 passes over a token (padding) and leaves h as it is.
    A_NI: negative; the transpose of the published layout.
    B_BTN, C_BTN: input and output maps.
    initial_BNI: h_{-1}; zeros if None.
    reset_BT: True where a document starts: h_{t-1} counts as 0 there.
    implementation: "reference" (lax.scan), "associative" (log depth, keeps every state), "chunked"
      (sequential, keeps every 8th state for the backward pass) or "auto".

  Returns:
    y_BTI in x's dtype, and h_{T-1} as (B, N, I) float32, in which everything is computed.

  Source: Gu & Dao 2023, arXiv:2312.00752, algorithm 2 with eq. 2 and 4, B discretised by Euler's
  rule as in the published code (state-spaces/mamba, selective_scan_interface.py).
  """
  if implementation == "auto":
    # Forward + backward on 2 CPU cores, B 8, T 256, I 512, N 16, fastest of 11: reference 212 ms
    # (281 MB of temporaries), chunks of 8 61 (34), of 16 65 (38), of 32 66 (52); 16 with rolled
    # inner loops 105, with states (B, I, N) 99, as (N, B, I) 107. In another, busier run the
    # associative form took 3.2 times the reference (916 MB), 17 times forward alone, where the
    # other two are the same loop. Below a chunk the reference carries no padding.
    # On accelerators T sequential steps are T kernel launches: not measured, but not close.
    on_cpu = "chunked" if x_BTI.shape[1] >= _CHUNK else "reference"
    implementation = on_cpu if jax.default_backend() == "cpu" else "associative"
  if implementation not in _FORMS:
    raise unknown("implementation of selective_scan", implementation, ("auto", *_FORMS))
  batch, length, inner = x_BTI.shape
  keep_BT = jnp.ones((batch, length)) if reset_BT is None else ~reset_BT
  tokens = tuple(
    jnp.moveaxis(a.astype(jnp.float32), 1, 0) for a in (x_BTI, dt_BTI, B_BTN, C_BTN, keep_BT)
  )
  if initial_BNI is None:
    initial_BNI = jnp.zeros((batch, A_NI.shape[0], inner), jnp.float32)
  y_TBI, final_BNI = _FORMS[note("selective_scan", implementation)](
    tokens, A_NI.astype(jnp.float32), initial_BNI.astype(jnp.float32)
  )
  return jnp.moveaxis(y_TBI, 0, 1).astype(x_BTI.dtype), final_BNI
