"""What the chunked forms of matrix-valued recurrences share: cutting a sequence into chunks, and
products of queries and keys that decay channel by channel between the two.

Legend: B batch, T position, H heads, K key channel, X queries a position, Y keys a position,
N chunks, C position in a chunk (t of the query, s of the key).
"""

import jax
import jax.numpy as jnp

# Value and gradient of wkv6 / wkv7, B 8, T 256, 4 heads of 64, two CPU cores: chunks of 16 in
# blocks of 4 take 61 / 96 ms, of 8 76 / 105, of 16 108 / -; chunks of 32 94 / 267, of 64 260 / -.
# One product whose factors may overflow saves 2 ms of wkv7's. Accelerators: unmeasured.
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


def decayed_products(q_XBHCK, k_YBHCK, summed_BHCK, block: int = BLOCK) -> jax.Array:
  """p_ts = sum_K q_tK k_sK exp(summed_tK - summed_sK) for s <= t, and 0 for s > t.

  exp(-summed) alone overflows once a chunk's log decays sum up to less than -88. So no exponent
  here is ever positive: inside a block of positions each pair has a difference of its own, and
  between blocks both factors decay towards the border between them.

  Args:
    q_XBHCK, k_YBHCK: any number of queries and keys, each with each.
    summed_BHCK: sums of log decays (at most 0 each) up to and with each position.
    block: positions whose pairs are taken one by one; divides C.

  Returns:
    p_XYBHCC, the last two axes t and s.
  """
  size = summed_BHCK.shape[-2]
  rows = []
  for start in range(0, size, block):
    at = slice(start, start + block)
    q, c = q_XBHCK[..., at, :], summed_BHCK[..., at, :]
    pair = jnp.exp(jnp.minimum(c[..., :, None, :] - c[..., None, :, :], 0))
    # One pass that makes each pair's decay once for all queries and keys.
    own = jnp.tril(jnp.einsum("xbhtk,ybhsk,bhtsk->xybhts", q, k_YBHCK[..., at, :], pair))
    parts = [own]
    if start:
      border = summed_BHCK[..., start - 1 : start, :]
      q = q * jnp.exp(c - border)[None]
      k = k_YBHCK[..., :start, :] * jnp.exp(border - summed_BHCK[..., :start, :])[None]
      parts.insert(0, jnp.einsum("xbhtk,ybhsk->xybhts", q, k))
    zeros = [(0, 0)] * (own.ndim - 1)
    rows.append(jnp.pad(jnp.concatenate(parts, -1), (*zeros, (0, size - start - block))))
  return jnp.concatenate(rows, -2)
