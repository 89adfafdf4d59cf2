"""Softmax attention over tokens that know their positions, documents and prefix.

Legend: B batch, T query position, S key position, H heads, G key/value heads, R = H / G,
K head size.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from llm_jax.errors import unknown
from llm_jax.ops.forms import note

_MASKED = -1e30  # finite: a padding query sees no key at all, and must not become NaN


@struct.dataclass
class Tokens:
  """What a mask needs to know of queries or keys.

  Attributes:
    positions: (B, T) int32, index in the document; -1 at padding and empty cache slots.
    segments: (B, T) int32, 0 at padding; only tokens of equal segment see each other.
    prefix: (B, T) bool, tokens that see each other whatever their order, or None.
  """

  positions: jax.Array
  segments: jax.Array
  prefix: jax.Array | None = None

  def block(self, start: int, stop: int) -> "Tokens":
    """The tokens of columns start to stop."""
    return jax.tree.map(lambda a: a[:, start:stop], self)


def visible(queries: Tokens, keys: Tokens, causal: bool, window: int = 0):
  """(B, T, S) bool: which key each query may see.

  Args:
    queries, keys: the tokens of either side.
    causal: a query sees no later position, unless both are in the prefix.
    window: a query sees positions less than this far away; 0 is no limit.
  """
  same = queries.segments[:, :, None] == keys.segments[:, None, :]
  seen = same & (keys.segments[:, None, :] > 0)
  distance = queries.positions[:, :, None] - keys.positions[:, None, :]
  near = jnp.ones_like(seen)
  if causal:
    near = distance >= 0
    if queries.prefix is not None:
      near = near | (queries.prefix[:, :, None] & keys.prefix[:, None, :])
  if window:
    near = near & (jnp.abs(distance) < window)
  return seen & near


def attention(
  q_BTHK,
  k_BGSK,
  v_BGSK,
  queries: Tokens,
  keys: Tokens,
  *,
  causal: bool = True,
  window: int = 0,
  bias: Callable | None = None,
  soft_cap: float = 0.0,
  scale: float | None = None,
  implementation: str = "auto",
):
  """softmax(q k^T * scale + bias) v over the visible keys, softmax in float32.

  Args:
    q_BTHK: queries; heads h and h + 1 share a key head when H > G.
    k_BGSK, v_BGSK: keys and values, heads before positions as a cache stores them.
    queries, keys: positions and documents, from which the mask comes.
    bias: function of key minus query positions (B, T, S) to what is added to the scores,
      (B, H, T, S).
    soft_cap: scores become cap * tanh(score / cap); 0 is none.
    scale: 1 / sqrt(K) if None.
    implementation: "reference" (the whole square), "blockwise" (blocks of queries; memory linear in
      T), "aligned" (blockwise for causal self-attention where column order is position order:
      skips keys that lie ahead or behind the window) or "auto".

  Returns:
    (B, T, H, K) in q's dtype.

  Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; grouped heads: Ainslie et al. 2023,
  arXiv:2305.13245; soft cap: Gemma 2, arXiv:2408.00118, section 2.
  """
  batch, t, num_heads, head_dim = q_BTHK.shape
  groups, s = k_BGSK.shape[1:3]
  q_BTHK = q_BTHK * jnp.asarray(head_dim**-0.5 if scale is None else scale, q_BTHK.dtype)
  q_BGRTK = jnp.moveaxis(q_BTHK.reshape(batch, t, groups, num_heads // groups, head_dim), 1, 3)

  def attend(q_BGRTK, k_BGSK, v_BGSK, queries, keys):
    mask_BTS = visible(queries, keys, causal, window)
    relative_BTS = keys.positions[:, None, :] - queries.positions[:, :, None]
    return _attend(q_BGRTK, k_BGSK, v_BGSK, mask_BTS, bias and bias(relative_BTS), soft_cap)

  if implementation == "auto":
    implementation = _choose(t, s)
  note("attention", implementation)
  if implementation == "reference":
    y_BGRTK = attend(q_BGRTK, k_BGSK, v_BGSK, queries, keys)
  elif implementation in ("blockwise", "aligned"):
    aligned = implementation == "aligned"
    if aligned and (t != s or not causal or queries.prefix is not None):
      raise ValueError("'aligned' attention is causal self-attention without a prefix")
    y_BGRTK = _blockwise(attend, q_BGRTK, k_BGSK, v_BGSK, queries, keys, aligned, window)
  else:
    raise unknown("attention", implementation, ("auto", "reference", "blockwise", "aligned"))
  return jnp.moveaxis(y_BGRTK, 3, 1).reshape(batch, t, num_heads, head_dim)


def _choose(t: int, s: int) -> str:
  return "reference" if t * s <= 256 * 1024 else "blockwise"


def _attend(q_BGRTK, k_BGSK, v_BGSK, mask_BTS, bias_BHTS, soft_cap):
  """The definition, on scaled queries."""
  if q_BGRTK.shape[3] == 1:  # keys first: with one query XLA:CPU would transpose all the keys
    scores = jnp.einsum("bgsk,bgrtk->bgsrt", k_BGSK, q_BGRTK, preferred_element_type=jnp.float32)
    scores = jnp.moveaxis(scores, 2, 4)
  else:
    scores = jnp.einsum("bgrtk,bgsk->bgrts", q_BGRTK, k_BGSK, preferred_element_type=jnp.float32)
  if soft_cap:
    scores = soft_cap * jnp.tanh(scores / soft_cap)
  if bias_BHTS is not None:
    scores = scores + bias_BHTS.reshape(-1, *scores.shape[1:3], *bias_BHTS.shape[2:])
  scores = jnp.where(mask_BTS[:, None, None], scores, _MASKED)
  weights = jax.nn.softmax(scores, axis=-1).astype(v_BGSK.dtype)
  return jnp.einsum("bgrts,bgsk->bgrtk", weights, v_BGSK)


def _blockwise(attend, q_BGRTK, k_BGSK, v_BGSK, queries, keys, aligned, window):
  """One block of queries after another, recomputed in the backward pass."""
  t, s = q_BGRTK.shape[3], k_BGSK.shape[2]
  size = max(128, -(-t // 16))  # at most 16 blocks: each is compiled
  outputs = []
  for start in range(0, t, size):
    stop = min(start + size, t)
    first = max(0, start - window + 1) if aligned and window else 0
    last = stop if aligned else s
    outputs.append(
      jax.checkpoint(attend)(
        q_BGRTK[:, :, :, start:stop],
        k_BGSK[:, :, first:last],
        v_BGSK[:, :, first:last],
        queries.block(start, stop),
        keys.block(first, last),
      )
    )
  return jnp.concatenate(outputs, axis=3)
