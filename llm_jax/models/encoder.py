"""The encoder-only model: embed, bidirectional stack, head.

Legend: B batch, T position.
"""

import flax.linen as nn

from llm_jax.contract import Context
from llm_jax.models.embedding import Embedding
from llm_jax.models.heads import Heads
from llm_jax.models.output import Output, places_of
from llm_jax.models.spec import Spec
from llm_jax.models.stack import Stack


class Encoder(nn.Module):
  """Reads each token in the light of all others of its document.

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

  def __call__(self, tokens_BT, segments=None, token_types=None, train=False) -> Output:
    """Logits of every position; the arguments are the decoder's."""
    segments_BT, positions_BT = places_of(self.spec, tokens_BT, segments, None)
    context = Context(positions_BT, segments_BT, causal=False, train=train)
    x_BTD = self.embed(tokens_BT, positions_BT, self.dtype, train, token_types)
    x_BTD, _ = self.stack(x_BTD, context)
    logits, heads = self.heads(x_BTD, segments_BT, self.embed.tokens)
    return Output(logits, x_BTD, None, heads)
