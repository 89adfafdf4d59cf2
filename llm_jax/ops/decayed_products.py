"""What the chunked forms of matrix-valued recurrences share: cutting a sequence into chunks, and
products of queries and keys that decay channel by channel between the two.

Legend: B batch, T position, H heads, K key channel, X queries a position, Y keys a position,
N chunks, C position in a chunk (t of the query, s of the key).
"""

import functools

import jax
import jax.numpy as jnp

# Value and gradient of wkv6 / wkv7, B 8, T 256, 4 heads of 64, two CPU cores: chunks of 16 in
# blocks of 4 take 61 / 96 ms, of 8 76 / 105, of 16 108 / -; chunks of 32 94 / 267, of 64 260 / -.
# One product whose factors may overflow saves 2 ms of wkv7's. Exponentials of a sum of log decays
# for each pair are as exact as products of decays, at 1.4 / 1.3 times the time. Accelerators:
# unmeasured.
CHUNK, BLOCK = 16, 4
SHORTEST = 64  # fewer tokens take the scan over them, the smaller program to compile


def in_chunks(x_BT: jax.Array, size: int) -> jax.Array:
  """(B, T, H, K) to (N, B, H, C, K), or (B, T) to (N, B, C), padded with zeros to whole chunks."""
  batch, length = x_BT.shape[:2]
  chunks = -(-length // size)
  rest = [(0, 0)] * (x_BT.ndim - 2)
  x_BT = jnp.pad(x_BT, ((0, 0), (0, chunks * size - length), *rest))
  x_BNC = x_BT.reshape(batch, chunks, size, *x_BT.shape[2:])
  return x_BNC.swapaxes(0, 1) if x_BT.ndim == 2 else jnp.transpose(x_BNC, (1, 0, 3, 2, 4))


def out_of_chunks(y_NBHCK: jax.Array, length: int) -> jax.Array:
  """The inverse of `in_chunks`: (B, T, H, K)."""
  chunks, batch, heads, size, channels = y_NBHCK.shape
  y_BNCHK = jnp.transpose(y_NBHCK, (1, 0, 3, 2, 4))
  return y_BNCHK.reshape(batch, chunks * size, heads, channels)[:, :length]


def earlier(x_CK: jax.Array) -> jax.Array:
  """What stands one position earlier on the last axis but one, zeros first."""
  return jnp.pad(x_CK[..., :-1, :], [(0, 0)] * (x_CK.ndim - 2) + [(1, 0), (0, 0)])


def later(x_CK: jax.Array) -> jax.Array:
  """What stands one position later on the last axis but one, zeros last."""
  return jnp.pad(x_CK[..., 1:, :], [(0, 0)] * (x_CK.ndim - 2) + [(0, 1), (0, 0)])


def decayed_products(q_XBHCK, k_YBHCK, decay_BHCK, block: int = BLOCK):
  """p_ts = sum_K q_tK k_sK decay_{s+1} ... decay_t for s <= t, and 0 for s > t.

  Nothing is divided: 1 / (decay_1 ... decay_s) overflows, and a quotient keeps the rounding of
  decays it does not hold. So inside a block of positions each pair has a product of its own, and
  between blocks both factors decay towards the border between them.

  Args:
    q_XBHCK, k_YBHCK: any number of queries and keys, each with each.
    decay_BHCK: from 0 to 1.
    block: positions whose pairs are taken one by one; divides C.

  Returns:
    p_XYBHCC, the last two axes t and s; and (B, H, C, K), the product of the decays after each
    position.
  """
  size = decay_BHCK.shape[-2]
  rows, to_border = [], decay_BHCK[..., :0, :]  # of each position so far
  for start in range(0, size, block):
    at = slice(start, start + block)
    q, k, decay = q_XBHCK[..., at, :], k_YBHCK[..., at, :], decay_BHCK[..., at, :]
    pair = _between(decay)
    # One pass that makes each pair's decay once for all queries and keys.
    own = jnp.tril(jnp.einsum("xbhtk,ybhsk,bhtsk->xybhts", q, k, pair))
    parts, from_border = [own], decay[..., :1, :] * pair[..., 0, :]
    if start:
      k = k_YBHCK[..., :start, :] * to_border[None]
      parts.insert(0, jnp.einsum("xbhtk,ybhsk->xybhts", q * from_border[None], k))
    zeros = [(0, 0)] * (own.ndim - 1)
    rows.append(jnp.pad(jnp.concatenate(parts, -1), (*zeros, (0, size - start - block))))
    earlier_to_border = to_border * from_border[..., -1:, :]
    to_border = jnp.concatenate([earlier_to_border, pair[..., -1, :, :]], -2)
  return jnp.concatenate(rows, -2), to_border


def _between(decay_BHCK):
  """Products over the positions from s + 1 to t, (B, H, t, s, K); 1 where t is not later."""
  place = jnp.arange(decay_BHCK.shape[-2])
  t, s = place[None, None, :, None, None], place[None, None, None, :, None]
  return functools.reduce(
    jnp.multiply,
    [
      jnp.where((s < u) & (u <= t), decay_BHCK[:, :, u, None, None], 1)
      for u in range(1, len(place))
    ],
  )
