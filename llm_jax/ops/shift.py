"""The memory of the last few tokens: the causal depthwise convolution and the token shift.

Legend: B batch, T position, D channel, K taps of the kernel, H = K - 1 remembered tokens,
L = H + T: the remembered tokens and the chunk's real ones, oldest first.
"""

import jax
import jax.numpy as jnp


def _follow(state_BHD, x_BTD, segments_BT, window):
  """Applies `window` (B, L, D) -> (B, T, D) to the real tokens as if no padding stood among them.

  Returns its value at each token of the chunk and the last H real tokens, in the state's dtype.
  """
  real_BT, length, memory = segments_BT > 0, x_BTD.shape[1], state_BHD.shape[1]
  if length == 1:
    line_BLD = jnp.concatenate([state_BHD, x_BTD], axis=1)
    new_BHD = jnp.where(real_BT[:, :, None], line_BLD[:, 1:].astype(state_BHD.dtype), state_BHD)
    return window(line_BLD.astype(x_BTD.dtype)), new_BHD
  # A stable sort moves the padding behind the real tokens and keeps their order.
  order_BT = jnp.argsort(~real_BT, axis=1, stable=True)
  compact_BTD = jnp.take_along_axis(x_BTD, order_BT[:, :, None], axis=1)
  line_BLD = jnp.concatenate([state_BHD, compact_BTD], axis=1)
  rank_BT = jnp.cumsum(real_BT, axis=1, dtype=jnp.int32)
  y_BTD = jnp.take_along_axis(
    window(line_BLD.astype(x_BTD.dtype)), jnp.maximum(rank_BT - 1, 0)[:, :, None], axis=1
  )
  last_BH = rank_BT[:, -1:] + jnp.arange(memory, dtype=jnp.int32)[None, :]
  new_BHD = jnp.take_along_axis(line_BLD, last_BH[:, :, None], axis=1)
  return y_BTD, new_BHD.astype(state_BHD.dtype)


def causal_convolution(
  x_BTD: jax.Array,
  kernel_KD: jax.Array,
  bias_D: jax.Array | None,
  positions_BT: jax.Array,
  segments_BT: jax.Array,
  state_BKD: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array | None]:
  """y_t = bias + sum_j kernel_{K-1-j} x_{t-j}, channel by channel, over the tokens of a document.

  Args:
    x_BTD: inputs.
    kernel_KD: the last row multiplies the token itself, as in torch's Conv1d; cast to x's dtype.
    bias_D: added to every output, or None.
    positions_BT: index of each token in its document; read without a state, where tap j of a token
      counts iff its position is at least j. Real tokens of a row must then be contiguous.
    segments_BT: 0 at padding; read with a state, where padding may lie anywhere.
    state_BKD: (B, K - 1, D), the last real inputs, oldest first; None starts each document with
      zeros.

  Returns:
    y_BTD in x's dtype (arbitrary but finite at padding), and the state after the last real token
    (the given one, bit for bit, in a row of all padding), or None without a state.

  Source: Gu & Dao 2023, arXiv:2312.00752, section 3.4 (the short convolution before the SSM).
  """
  taps, length = kernel_KD.shape[0], x_BTD.shape[1]
  rows_KD = kernel_KD.astype(x_BTD.dtype)

  def tap(line_BLD, j):
    return jax.lax.slice_in_dim(line_BLD, taps - 1 - j, taps - 1 - j + length, axis=1)

  def window(line_BLD, keep=lambda value_BTD, j: value_BTD):
    y_BTD = sum(keep(tap(line_BLD, j), j) * rows_KD[None, None, taps - 1 - j] for j in range(taps))
    return y_BTD if bias_D is None else y_BTD + bias_D.astype(y_BTD.dtype)[None, None]

  if state_BKD is not None:
    if state_BKD.shape[1] != taps - 1:
      raise ValueError(f"{taps} taps remember {taps - 1} tokens, the state is {state_BKD.shape}")
    return _follow(state_BKD, x_BTD, segments_BT, window)
  line_BLD = jnp.pad(x_BTD, ((0, 0), (taps - 1, 0), (0, 0)))
  # Whole tokens are kept or dropped, tap 0 always: a boundary costs no pass of its own.
  return window(
    line_BLD,
    lambda value_BTD, j: (
      jnp.where((positions_BT >= j)[:, :, None], value_BTD, 0) if j else value_BTD
    ),
  ), None


def token_shift(
  x_BTD: jax.Array,
  positions_BT: jax.Array,
  segments_BT: jax.Array,
  state_BD: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array | None]:
  """x of the previous real token of the same document.

  Args:
    x_BTD: inputs.
    positions_BT: index of each token in its document; read without a state.
    segments_BT: 0 at padding; read with a state.
    state_BD: x of the last real token before the chunk; None starts each document with zeros.

  Returns:
    previous_BTD in x's dtype (arbitrary but finite at padding), and x of the last real token (the
    given state, bit for bit, in a row of all padding), or None without a state.

  Source: Peng et al. 2023, arXiv:2305.13048, section 3.1 (token shift).
  """
  if state_BD is not None:
    y_BTD, new_B1D = _follow(state_BD[:, None], x_BTD, segments_BT, lambda line: line[:, :-1])
    return y_BTD, new_B1D[:, 0]
  previous_BTD = jnp.pad(x_BTD, ((0, 0), (1, 0), (0, 0)))[:, :-1]
  return jnp.where((positions_BT >= 1)[:, :, None], previous_BTD, 0), None
