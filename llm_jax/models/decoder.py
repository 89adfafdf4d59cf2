"""The decoder-only model: embed, causal stack, head.

Legend: B batch, T position.
"""

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.contract import Context
from llm_jax.models.embedding import Embedding
from llm_jax.models.heads import Heads
from llm_jax.models.output import Output, State, places_of
from llm_jax.models.spec import Spec
from llm_jax.models.stack import Stack


class Decoder(nn.Module):
  """Predicts each next token from those before it.

  Attributes:
    spec: the hyperparameters.
    dtype: compute type; parameters are float32.
  """

  spec: Spec
  dtype: str = "float32"

  def setup(self):
    self.embed = Embedding(self.spec)
    self.stack = Stack(self.spec, self.spec.decoder_stages)
    self.heads = Heads(self.spec)
    nn.share_scope(self, self.heads)

  def __call__(
    self, tokens_BT, segments=None, token_types=None, prefix=None, state=None, train=False
  ) -> Output:
    """Logits of every position.

    Args:
      tokens_BT: int32 ids.
      segments: (B, T) int32, 0 at padding, equal numbers for one document; None: all real.
      token_types: (B, T) int32, for a model that has a table of them; None: zeros.
      prefix: (B, T) bool, tokens that see each other both ways, or None.
      state: None to train on whole rows; else the State these tokens continue, one document a row.
      train: whether dropout applies.
    """
    segments_BT, positions_BT = places_of(self.spec, tokens_BT, segments, state)
    context = Context(positions_BT, segments_BT, prefix_BT=prefix, train=train)
    x_BTD = self.embed(tokens_BT, positions_BT, self.dtype, train, token_types)
    x_BTD, layers = self.stack(x_BTD, context, None if state is None else state.layers)
    logits, heads = self.heads(x_BTD, segments_BT, self.embed.tokens)
    state = None if state is None else state.advance(layers, segments_BT)
    return Output(logits, x_BTD, state, heads)

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length=0, dtype=jnp.float32) -> State:
    """The state before the first token, for documents of at most max_length tokens."""
    stack = Stack(self.spec, self.spec.decoder_stages, parent=None)
    layers = stack.initial_state(batch, max_length, memory_length, dtype)
    return State(layers, jnp.zeros((batch,), jnp.int32))
