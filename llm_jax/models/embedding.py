"""Token embeddings, with what the model adds to them.

Legend: B batch, T position, D model, V vocabulary.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.errors import UserError
from llm_jax.models.spec import Spec
from llm_jax.modules import Norm
from llm_jax.ops.positions import sinusoids


class Embedding(nn.Module):
  """Tokens plus learned or sinusoidal positions and types, scaled and normalised as the spec says.

  Attributes:
    spec: the hyperparameters.
    has_table: whether it holds the table of tokens, `tokens`, or is given one.
  """

  spec: Spec
  has_table: bool = True

  def setup(self):
    spec, width = self.spec, self.spec.d_model
    # Rows of length one: tied logits begin with variance one, and layers do not drown the tokens.
    if self.has_table:
      self.tokens = self._table("tokens", ("vocab", "embed"), spec.vocab_size, width**-0.5)
    if spec.positions == "learned":
      rows = spec.max_length + spec.position_offset
      self.positions = self._table("positions", (None, "embed"), rows, 0.1 * width**-0.5)
    if spec.token_types:
      self.types = self._table("token_types", (None, "embed"), spec.token_types, 0.1 * width**-0.5)
    if spec.embedding_norm:
      self.norm = Norm(spec.norm, spec.norm_epsilon)
    self.dropout = nn.Dropout(spec.dropout_rate)

  def __call__(self, tokens_BT, positions_BT, dtype, train, token_types=None, table_VD=None):
    """(B, T, D) in `dtype`; NaN where what is not padding lies outside of its table.

    Args:
      tokens_BT: int32 ids; any at padding.
      positions_BT: of each token in its document; -1 at padding.
      dtype: of the result.
      train: whether dropout applies.
      token_types: (B, T) int32, or None for zeros.
      table_VD: of tokens, where the embedding holds none.
    """
    spec, real_BT = self.spec, positions_BT >= 0
    positions_BT = jnp.maximum(positions_BT, 0)

    def rows(table_VD, ids_BT):
      # As fast as clamped ids, forwards and backwards.
      at = table_VD.at[jnp.where(real_BT, ids_BT, 0)]
      return at.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False).astype(dtype)

    x_BTD = rows(self.tokens if self.has_table else table_VD, tokens_BT)
    if spec.embedding_scale:
      factor = jnp.asarray(math.sqrt(spec.d_model), spec.embedding_scale_dtype)
      x_BTD = x_BTD * factor.astype(dtype)
    if spec.positions == "learned":
      x_BTD = x_BTD + rows(self.positions, positions_BT + spec.position_offset)
    elif spec.positions.startswith("sinusoidal"):
      halves = spec.positions == "sinusoidal_halves"
      x_BTD = x_BTD + sinusoids(positions_BT, spec.d_model, halves).astype(dtype)
    if spec.token_types:
      types_BT = jnp.zeros_like(tokens_BT) if token_types is None else token_types
      x_BTD = x_BTD + rows(self.types, types_BT)
    elif token_types is not None:
      raise UserError("token_types were given to a model without them (model.token_types is 0).")
    if spec.embedding_norm:
      x_BTD = self.norm(x_BTD)
    return self.dropout(x_BTD, deterministic=not train)

  def _table(self, name, axes, rows, deviation):
    init = nn.with_logical_partitioning(nn.initializers.normal(deviation), axes)
    return self.param(name, init, (rows, self.spec.d_model))
