"""Self-attention: multi-head, grouped-query or multi-query; causal, bidirectional or windowed.

Legend: B batch, T position, S key position, D model, H heads, G key/value heads, K head size.
"""

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.errors import unknown
from llm_jax.modules import Norm, Projection, heads_to_stream, query_variance
from llm_jax.ops.attention import Tokens, attention
from llm_jax.ops.positions import alibi_slopes, relative_bias, rotate, table_bias

_POSITIONS = ("none", "rope", "alibi")


class Attention(nn.Module):
  """Each token reads the tokens of its document that the model lets it see.

  A state is a cache of keys and values; the slot of a token is its position, modulo the window if
  there is one, and the cache stores positions (-1 = empty), from which masks and biases come.

  Attributes:
    num_heads: query heads.
    num_kv_heads: key and value heads, a divisor of num_heads; 0 is num_heads, 1 multi-query.
    head_dim: 0 is d_model / num_heads.
    positions: "none" (or the model's own), "rope" or "alibi".
    rope_base: wavelength base of "rope".
    rope_fraction: share of each head that turns.
    rope_scaling: (), ("linear", factor), or ("llama3", factor, low, high, length), as in
      `ops/positions`.
    window: tokens see positions less than this far away; 0 is no limit.
    use_bias: whether queries, keys and values have biases.
    out_bias: whether the output has one.
    qk_norm: RMS norm of queries and keys, per head, before rotation.
    norm_epsilon: of that norm.
    query_scale: factor of the queries; 0 is 1 / sqrt(head_dim).
    soft_cap: scores become cap * tanh(score / cap); 0 is none.
    implementation: form of `ops/attention`.

  Sources: Vaswani et al. 2017, arXiv:1706.03762; Shazeer 2019, arXiv:1911.02150 (multi-query);
  Ainslie et al. 2023, arXiv:2305.13245 (grouped-query); Beltagy et al. 2020, arXiv:2004.05150
  (window); Henry et al. 2020, arXiv:2010.04245 (query-key norm).
  """

  num_heads: int = 4
  num_kv_heads: int = 0
  head_dim: int = 0
  positions: str = "none"
  rope_base: float = 10_000.0
  rope_fraction: float = 1.0
  rope_scaling: tuple = ()
  window: int = 0
  use_bias: bool = True
  out_bias: bool = True
  qk_norm: bool = False
  norm_epsilon: float = 1e-6
  query_scale: float = 0.0
  soft_cap: float = 0.0
  implementation: str = "auto"

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    q_BTHK, k_BTGK, v_BTGK = self._project(x_BTD, context)
    k_BGTK, v_BGTK = jnp.moveaxis(k_BTGK, 1, 2), jnp.moveaxis(v_BTGK, 1, 2)
    queries = Tokens(context.positions_BT, context.segments_BT, context.prefix_BT)
    if state is None:
      y_BTHK = self._attend(q_BTHK, k_BGTK, v_BGTK, queries, queries, context, self._form(context))
    else:
      y_BTHK, state = self._attend_cached(q_BTHK, k_BGTK, v_BGTK, queries, context, state)
    return heads_to_stream(y_BTHK, x_BTD.shape[-1], context, self.out_bias), state

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    slots = min(self.window, max_length) if self.window else max_length
    kv = (batch, self.num_kv_heads or self.num_heads, slots, self._head_dim(d_model))
    return {
      "k": jnp.zeros(kv, dtype),
      "v": jnp.zeros(kv, dtype),
      "positions": jnp.full((batch, slots), -1, jnp.int32),
    }

  @nn.nowrap
  def _head_dim(self, d_model):
    return self.head_dim or d_model // self.num_heads

  def _project(self, x_BTD, context):
    """Queries, keys and values, normalised and rotated."""
    head_dim, kv_heads = self._head_dim(x_BTD.shape[-1]), self.num_kv_heads or self.num_heads

    def project(name, heads, axis, scale=1.0):
      features, axes = (heads, head_dim), ("embed", axis, None)
      return Projection(features, axes, use_bias=self.use_bias, scale=scale, name=name)(x_BTD)

    q_BTHK = project("q", self.num_heads, "heads", query_variance(self.query_scale, head_dim))
    k_BTGK = project("k", kv_heads, "kv")
    if self.qk_norm:
      q_BTHK = Norm("rmsnorm", self.norm_epsilon, axis=None, name="q_norm")(q_BTHK)
      k_BTGK = Norm("rmsnorm", self.norm_epsilon, axis=None, name="k_norm")(k_BTGK)
    if self.positions == "rope":
      how = (context.positions_BT, self.rope_base, self.rope_fraction, self.rope_scaling)
      q_BTHK, k_BTGK = rotate(q_BTHK, *how), rotate(k_BTGK, *how)
    elif self.positions not in _POSITIONS:
      raise unknown("positions of attention", self.positions, _POSITIONS)
    return q_BTHK, k_BTGK, project("v", kv_heads, "kv")

  def _form(self, context):
    """Without a state columns stand in order, and "auto" may take the form that relies on it."""
    long = context.segments_BT.shape[1] > 128
    ordered = context.causal and context.prefix_BT is None
    return "aligned" if self.implementation == "auto" and long and ordered else self.implementation

  def _attend(self, q_BTHK, k_BGSK, v_BGSK, queries, keys, context, form):
    bias = None
    if self.positions == "alibi":
      slopes_H = jnp.asarray(alibi_slopes(self.num_heads))
      bias = lambda relative_BTS: relative_bias(slopes_H, relative_BTS)
    elif context.position_bias is not None:
      table_NH, far = context.position_bias, context.position_max_distance
      bias = lambda r_BTS: table_bias(table_NH, r_BTS, far, not context.causal)
    return attention(
      q_BTHK,
      k_BGSK,
      v_BGSK,
      queries,
      keys,
      causal=context.causal,
      window=self.window,
      bias=bias,
      soft_cap=self.soft_cap,
      scale=self.query_scale or None,
      implementation=form,
    )

  def _attend_cached(self, q_BTHK, k_BGTK, v_BGTK, queries, context, state):
    """A row with a state holds one document: every token of cache and chunk that is not padding."""
    queries = queries.replace(segments=(queries.segments > 0).astype(jnp.int32))
    written = _write(state, k_BGTK, v_BGTK, queries.positions)
    if self.window and q_BTHK.shape[1] > 1:
      # A chunk may overwrite slots its own first tokens still see: read the old ring beside it.
      k_BGSK = jnp.concatenate([state["k"], k_BGTK.astype(state["k"].dtype)], axis=2)
      v_BGSK = jnp.concatenate([state["v"], v_BGTK.astype(state["v"].dtype)], axis=2)
      positions_BS = jnp.concatenate([state["positions"], queries.positions], axis=1)
    else:
      k_BGSK, v_BGSK, positions_BS = written["k"], written["v"], written["positions"]
    keys = Tokens(positions_BS, (positions_BS >= 0).astype(jnp.int32))
    if queries.prefix is not None:
      end_B1 = jnp.max(jnp.where(queries.prefix, queries.positions, -1), axis=1, keepdims=True)
      keys = keys.replace(prefix=positions_BS <= end_B1)
    kv = k_BGSK.astype(q_BTHK.dtype), v_BGSK.astype(q_BTHK.dtype)
    y_BTHK = self._attend(q_BTHK, *kv, queries, keys, context, self.implementation)
    return y_BTHK, written


def _write(state, k_BGTK, v_BGTK, positions_BT):
  """The cache with the chunk's tokens in their slots; padding writes nothing."""
  if positions_BT.size == 1:
    # A lone update would become a slice update that XLA:CPU fuses into reader and result alike,
    # at the price of copying the cache for every token; with padding beside it it is in place.
    positions_BT = jnp.pad(positions_BT, ((0, 0), (0, 1)), constant_values=-1)
    k_BGTK, v_BGTK = (jnp.pad(a, ((0, 0), (0, 0), (0, 1), (0, 0))) for a in (k_BGTK, v_BGTK))
  slots = state["positions"].shape[1]
  last_B1 = jnp.max(positions_BT, axis=1, keepdims=True)
  # Of a chunk longer than the ring only the end stays, so that no slot is written twice.
  kept_BT = (positions_BT >= 0) & (positions_BT > last_B1 - slots)
  slot_BT = jnp.where(kept_BT, positions_BT % slots, slots)
  row_B1 = jnp.arange(slot_BT.shape[0])[:, None]

  def write(cache_BGSK, new_BGTK):
    new_BTGK = jnp.moveaxis(new_BGTK, 2, 1).astype(cache_BGSK.dtype)
    return cache_BGSK.at[row_B1, :, slot_BT].set(new_BTGK, mode="drop")

  return {
    "k": write(state["k"], k_BGTK),
    "v": write(state["v"], v_BGTK),
    "positions": state["positions"].at[row_B1, slot_BT].set(positions_BT, mode="drop"),
  }
