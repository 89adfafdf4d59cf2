"""The layer contract: what every residual layer is given beside x, and what it must honour.

A layer is a Linen module in `llm_jax/layers/<name>.py` with

  def __call__(self, x_BTD, context, state=None) -> (y_BTD, state)
  def initial_state(self, batch, max_length, memory_length, d_model, dtype) -> pytree

With `state=None` (training) the parallel form runs over all T, several documents may share a row,
and the returned state is None. With a state, a row holds one document, any T continues it, and
the state returned is the one after the row's last token that is not padding.

Legend: B batch, T position, S memory position, D model.
"""

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Context:
  """What a layer may read beside its input; the model makes it, the stack fills in `depth`.

  Attributes:
    positions_BT: int32, index of the token in its document, counting real tokens; -1 at padding.
    segments_BT: int32, 0 at padding; equal numbers are one document.
    prefix_BT: bool, tokens that see each other both ways (prefix language model), or None.
    memory_BSD: what cross-attention reads, or None once a state holds its projections.
    memory_segments_BS: 0 at the memory's padding.
    position_bias: the stack's table of T5 relative position biases (buckets, heads), or None.
    position_max_distance: where that table's last bucket begins.
    shared: values made by one layer and read by later ones; a layer that makes some returns a
      dict of them as its third value, and declares their zeros in `initial_shared`.
    depth: index of the pattern's repeat this layer is in, traced under the stack's scan.
    num_blocks: how many repeats the stack has in all.
    residual_scale: variance that attention and MLPs first add to a normalised stream.
    causal: False in an encoder, where every token sees every other of its document.
    train: True where dropout applies and a mixture of experts may drop tokens.
  """

  positions_BT: jax.Array
  segments_BT: jax.Array
  prefix_BT: jax.Array | None = None
  memory_BSD: jax.Array | None = None
  memory_segments_BS: jax.Array | None = None
  position_bias: jax.Array | None = None
  shared: dict = struct.field(default_factory=dict)
  depth: jax.Array | int = 0
  num_blocks: int = struct.field(pytree_node=False, default=1)
  residual_scale: float = struct.field(pytree_node=False, default=1.0)
  position_max_distance: int = struct.field(pytree_node=False, default=128)
  causal: bool = struct.field(pytree_node=False, default=True)
  train: bool = struct.field(pytree_node=False, default=False)

  @property
  def real_BT(self) -> jax.Array:
    """True where there is a token, False at padding."""
    return self.segments_BT > 0

  @property
  def starts_BT(self) -> jax.Array:
    """True at the first token of each document. Meaningful without a state only: a row that
    continues a state has no document start inside it."""
    return self.positions_BT == 0

  def require_causal(self, layer: str) -> None:
    """Raises ValueError in an encoder: for layers that can only look back."""
    if not self.causal:
      raise ValueError(
        f"Layer {layer!r} is causal by construction, but this stack is bidirectional "
        "(kind='encoder', or the encoder of an encoder-decoder). Use attention there."
      )


def document_positions(segments_BT: jax.Array) -> jax.Array:
  """Index of each token in its document, counting real tokens; -1 at padding.

  A document starts where a real token's segment differs from that of the real token before it,
  so padding anywhere changes no position.
  """
  real_BT = segments_BT > 0
  index_T = jnp.arange(segments_BT.shape[1], dtype=jnp.int32)
  last_real_BT = jax.lax.cummax(jnp.where(real_BT, index_T, -1), axis=1)
  previous_BT = jnp.pad(last_real_BT[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  previous_segment_BT = jnp.take_along_axis(segments_BT, jnp.maximum(previous_BT, 0), axis=1)
  start_BT = real_BT & ((previous_BT < 0) | (previous_segment_BT != segments_BT))
  count_BT = jnp.cumsum(real_BT, axis=1, dtype=jnp.int32) - 1
  base_BT = jax.lax.cummax(jnp.where(start_BT, count_BT, 0), axis=1)
  return jnp.where(real_BT, count_BT - base_BT, -1)
