"""Word vectors: two tables, of words and of the words around them, and nothing else.

Legend: B batch, T position, N words that a word meets, D model, V vocabulary.
"""

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.models.embedding import Embedding
from llm_jax.models.output import Output, places_of
from llm_jax.models.spec import Spec


class WordVectors(nn.Module):
  """Scores how well words go together: the product of their vectors, one of either table.

  Attributes:
    spec: the hyperparameters; of its layers none is used, and `head_bias` adds a bias a word to
      either side.
    dtype: compute type; parameters are float32.
  """

  spec: Spec
  dtype: str = "float32"

  def setup(self):
    self.embed = Embedding(self.spec)
    self.context = ContextTable(self.spec)
    if self.spec.head_bias:
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
      self.bias = self.param("bias", zeros, (self.spec.vocab_size,))

  def __call__(self, tokens_BT, others_BTN, segments=None, train=False) -> Output:
    """The scores, (B, T, N) float32.

    Args:
      tokens_BT: int32 ids.
      others_BTN: int32 ids of the words that each of them meets.
      segments: (B, T) int32, 0 at padding; None: all real.
      train: whether dropout applies.
    """
    segments_BT, positions_BT = places_of(self.spec, tokens_BT, segments, None)
    x_BTD = self.embed(tokens_BT, positions_BT, self.dtype, train)
    other_BTND, bias_BTN = self.context(others_BTN, self.dtype)
    scores_BTN = jnp.einsum("btd,btnd->btn", x_BTD, other_BTND, preferred_element_type=jnp.float32)
    if bias_BTN is not None:
      scores_BTN = scores_BTN + bias_BTN + self.bias[jnp.where(segments_BT > 0, tokens_BT, 0), None]
    return Output(scores_BTN, x_BTD, None, {"context": scores_BTN})


class ContextTable(nn.Module):
  """The vectors of words around others, zero at first, and their biases where there are any."""

  spec: Spec

  @nn.compact
  def __call__(self, others_BTN, dtype):
    spec, zeros = self.spec, nn.initializers.zeros
    init = nn.with_logical_partitioning(zeros, ("vocab", "embed"))
    table_VD = self.param("tokens", init, (spec.vocab_size, spec.d_model))
    rows_BTND = table_VD.at[others_BTN].get(mode="fill", fill_value=jnp.nan).astype(dtype)
    if not spec.head_bias:
      return rows_BTND, None
    init = nn.with_logical_partitioning(zeros, ("vocab",))
    return rows_BTND, self.param("bias", init, (spec.vocab_size,))[others_BTN]


def vectors(params) -> jnp.ndarray:
  """(V, D): what stands for each word, in a model of any kind.

  Of word vectors with biases it is the sum of both tables, as by Pennington et al. 2014, section
  4.2; of all others, and other models, the table of tokens.
  """
  table_VD = params["embed"]["tokens"]
  return table_VD + params["context"]["tokens"] if "bias" in params.get("context", {}) else table_VD
