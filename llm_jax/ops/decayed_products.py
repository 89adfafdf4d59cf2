"""What matrix-valued recurrences share: their chunks, the borders of documents, decayed products.

Legend: B batch, T position, H heads, K key channel, X queries a position, Y keys a position,
N chunks, C position in a chunk (t of the query, s of the key).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.errors import unknown
from llm_jax.ops.forms import note

# Value and gradient of wkv6 / wkv7, B 8, T 256, 4 heads of 64, two CPU cores: chunks of 16 in
# blocks of 4 take 61 / 96 ms, of 8 76 / 105, of 16 108 / -; chunks of 32 94 / 267, of 64 260 / -.
# One product whose factors may overflow saves 2 ms of wkv7's. Exponentials of a sum of log decays
# for each pair are as exact as products of decays, at 1.4 / 1.3 times the time. Accelerators:
# unmeasured.
CHUNK, BLOCK = 16, 4
SHORTEST = 64  # fewer tokens take the scan over them, the smaller program to compile


def run(name: str, forms: dict, inputs, state_BHKJ, starts_BT, implementation: str):
  """The form of a recurrence that was asked for, in float32; outputs in the fourth input's dtype,
  which are the values."""
  length, dtype = inputs[0].shape[1], inputs[3].dtype
  if starts_BT is None:
    starts_BT = jnp.zeros(inputs[0].shape[:2], bool)
  if implementation == "auto":
    implementation = "chunked" if length >= SHORTEST else "reference"
  if implementation not in forms:
    raise unknown(f"implementation of {name}", implementation, ("auto", *forms))
  inputs = (x.astype(jnp.float32) for x in inputs)
  y_BTHJ, state_BHKJ = forms[note(name, implementation)](*inputs, state_BHKJ, starts_BT)
  return y_BTHJ.astype(dtype), state_BHKJ


def scan_chunks(chunk: Callable, inputs, state_BHKJ):
  """Runs chunk(state, its inputs) -> (state, y) from chunk to chunk; the backward pass keeps only
  the states between them. Returns y_BTHJ and the last state."""
  steps = [in_chunks(x, CHUNK) for x in inputs]
  chunk = jax.checkpoint(chunk, prevent_cse=False)
  state_BHKJ, y_NBHCJ = jax.lax.scan(chunk, state_BHKJ, steps)
  return out_of_chunks(y_NBHCJ, inputs[0].shape[1]), state_BHKJ


class Borders:
  """What the documents of a chunk, and the decays since its start, leave of what came before.

  Attributes:
    same_B1CC: whether two positions are in one document.
    from_state_B1C1: whether a position is in the document of the state before the chunk.
    summed_BHCK: log decays from the chunk's start to each position, its own included.
  """

  def __init__(self, log_decay_BHCK, starts_BC):
    document_BC = jnp.cumsum(starts_BC, axis=-1)  # 0: that of the state
    self.same_B1CC = (document_BC[:, :, None] == document_BC[:, None, :])[:, None]
    self.from_state_B1C1 = (document_BC == 0)[:, None, :, None]
    self.summed_BHCK = jnp.cumsum(log_decay_BHCK, axis=-2)

  def kept(self, state_BHKJ):
    """What is left of the state at the chunk's end."""
    last_BH1K = jnp.exp(self.summed_BHCK[..., -1:, :])
    kept_BH1K = jnp.where(self.from_state_B1C1[:, :, -1:], last_BH1K, 0)
    return kept_BH1K.swapaxes(-1, -2) * state_BHKJ

  def added(self, k_BHCK, left_BHCK, v_BHCJ):
    """What the chunk's keys and values leave at its end, `left_BHCK` of each."""
    left_BHCK = jnp.where(self.same_B1CC[:, :, -1, :, None], left_BHCK, 0)
    return jnp.einsum("bhck,bhcj->bhkj", k_BHCK * left_BHCK, v_BHCJ)


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
