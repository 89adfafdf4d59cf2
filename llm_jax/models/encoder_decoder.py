"""The encoder-decoder: a bidirectional stack makes the memory that a causal stack reads.

Legend: B batch, S source position, T target position, D model.
"""

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.contract import Context
from llm_jax.models.embedding import Embedding
from llm_jax.models.heads import Heads
from llm_jax.models.output import Output, State, places_of
from llm_jax.models.spec import Spec
from llm_jax.models.stack import Stack


class EncoderDecoder(nn.Module):
  """Predicts each next target token from the source and the target tokens before it.

  Source and target share one table of tokens. In training, tokens of equal segment number belong to
  one pair; with a state, a row holds one pair.

  Attributes:
    spec: the hyperparameters.
    dtype: compute type; parameters are float32.
  """

  spec: Spec
  dtype: str = "float32"

  def setup(self):
    self.embed = Embedding(self.spec)
    self.source_embed = Embedding(self.spec, has_table=False)
    self.encoder = Stack(self.spec, self.spec.encoder_stages)
    self.stack = Stack(self.spec, self.spec.decoder_stages)
    self.heads = Heads(self.spec)
    nn.share_scope(self, self.heads)

  def __call__(
    self,
    source_BS,
    target_BT,
    source_segments=None,
    target_segments=None,
    state=None,
    train=False,
  ) -> Output:
    """Logits of every target position."""
    if source_segments is None:
      source_segments = jnp.ones_like(source_BS)
    memory_BSD = self.encode(source_BS, source_segments, train)
    return self.decode(target_BT, memory_BSD, source_segments, target_segments, state, train)

  def encode(self, source_BS, source_segments=None, train=False):
    """The memory, (B, S, D)."""
    segments_BS, positions_BS = places_of(self.spec, source_BS, source_segments, None)
    context = Context(positions_BS, segments_BS, causal=False, train=train)
    table_VD = self.embed.tokens
    x_BSD = self.source_embed(source_BS, positions_BS, self.dtype, train, table_VD=table_VD)
    return self.encoder(x_BSD, context)[0]

  def decode(
    self,
    target_BT,
    memory=None,
    memory_segments=None,
    target_segments=None,
    state=None,
    train=False,
  ) -> Output:
    """Logits of target tokens.

    Args:
      target_BT: int32 ids.
      memory: (B, S, D) from `encode`; None when the state already holds its projections.
      memory_segments: (B, S) int32, 0 at padding; None: all real, or what the state holds.
      target_segments: (B, T) int32; None: all real.
      state: None to train on whole rows; else the State these tokens continue.
      train: whether dropout applies.
    """
    segments_BT, positions_BT = places_of(self.spec, target_BT, target_segments, state)
    if memory is not None and memory_segments is None:
      memory_segments = jnp.ones(memory.shape[:2], jnp.int32)
    if memory is None:
      memory_segments = state.memory_segments_BS
    context = Context(
      positions_BT,
      segments_BT,
      memory_BSD=memory,
      memory_segments_BS=memory_segments,
      train=train,
    )
    x_BTD = self.embed(target_BT, positions_BT, self.dtype, train)
    x_BTD, layers = self.stack(x_BTD, context, None if state is None else state.layers)
    if state is not None:
      state = state.advance(layers, segments_BT).replace(memory_segments_BS=memory_segments)
    logits, heads = self.heads(x_BTD, segments_BT, self.embed.tokens)
    return Output(logits, x_BTD, state, heads)

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length=0, dtype=jnp.float32) -> State:
    """The state before the first target token; `decode` with a memory fills in the memory."""
    stack = Stack(self.spec, self.spec.decoder_stages, parent=None)
    layers = stack.initial_state(batch, max_length, memory_length, dtype)
    empty = jnp.zeros((batch, memory_length), jnp.int32)
    return State(layers, jnp.zeros((batch,), jnp.int32), empty)
