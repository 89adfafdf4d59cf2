"""Cross-attention: each token reads the memory that an encoder made.

Legend: B batch, T position, S memory position, D model, H heads, G key/value heads, K head size.
"""

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.modules import Projection, heads_to_stream, query_variance
from llm_jax.ops.attention import Tokens, attention


class CrossAttention(nn.Module):
  """Attention whose keys and values come from `context.memory_BSD`.

  With a state, the memory's projections are stored in it when the memory is given, and read from
  it when `context.memory_BSD` is None.

  Attributes:
    num_heads: query heads.
    num_kv_heads: key and value heads; 0 is num_heads.
    head_dim: 0 is d_model / num_heads.
    use_bias: whether the projections have biases.
    query_scale: factor of the queries; 0 is 1 / sqrt(head_dim).
    implementation: form of `ops/attention`.

  Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3.
  """

  num_heads: int = 4
  num_kv_heads: int = 0
  head_dim: int = 0
  use_bias: bool = True
  query_scale: float = 0.0
  implementation: str = "auto"

  keeps_memory = True  # its state is of the source alone: beams that change places leave it

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    d_model = x_BTD.shape[-1]
    kv_heads = self.num_kv_heads or self.num_heads

    def project(name, source, heads, axis, scale=1.0):
      features, axes = (heads, self._head_dim(d_model)), ("embed", axis, None)
      return Projection(features, axes, use_bias=self.use_bias, scale=scale, name=name)(source)

    if context.memory_BSD is not None:
      memory_BSD = context.memory_BSD.astype(x_BTD.dtype)
      k_BGSK = jnp.moveaxis(project("k", memory_BSD, kv_heads, "kv"), 1, 2)
      v_BGSK = jnp.moveaxis(project("v", memory_BSD, kv_heads, "kv"), 1, 2)
      if state is not None:
        state = {"k": k_BGSK.astype(state["k"].dtype), "v": v_BGSK.astype(state["v"].dtype)}
    elif state is not None:
      k_BGSK, v_BGSK = state["k"].astype(x_BTD.dtype), state["v"].astype(x_BTD.dtype)
    else:
      raise ValueError("cross_attention needs context.memory_BSD, or a state that holds a memory")

    variance = query_variance(self.query_scale, self._head_dim(d_model))
    queries, keys = context.segments_BT, context.memory_segments_BS
    if state is not None:  # one document a row, whatever its number on either side
      queries, keys = (queries > 0).astype(jnp.int32), (keys > 0).astype(jnp.int32)
    y_BTHK = attention(
      project("q", x_BTD, self.num_heads, "heads", variance),
      k_BGSK,
      v_BGSK,
      Tokens(queries, queries),
      Tokens(keys, keys),
      causal=False,
      scale=self.query_scale or None,
      implementation=self.implementation,
    )
    return heads_to_stream(y_BTHK, d_model, context, self.use_bias), state

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    kv_heads = self.num_kv_heads or self.num_heads
    shape = (batch, kv_heads, memory_length, self._head_dim(d_model))
    return {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype)}

  @nn.nowrap
  def _head_dim(self, d_model):
    return self.head_dim or d_model // self.num_heads
