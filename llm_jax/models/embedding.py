"""Token embeddings with what the model adds to them, and the head that reads the stream.

Legend: B batch, T position, D model, V vocabulary.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.models.spec import Spec
from llm_jax.modules import Norm, Projection
from llm_jax.ops.linear import linear
from llm_jax.ops.positions import sinusoids


class Embedding(nn.Module):
  """Tokens plus learned or sinusoidal positions, scaled and normalised as the spec says."""

  spec: Spec

  def setup(self):
    spec = self.spec
    # Rows of length one: tied logits begin with variance one, and layers do not drown the tokens.
    init = nn.initializers.normal(spec.d_model**-0.5)
    table = nn.with_logical_partitioning(init, ("vocab", "embed"))
    self.tokens = self.param("tokens", table, (spec.vocab_size, spec.d_model))
    if spec.positions == "learned":
      places = nn.initializers.normal(0.1 * spec.d_model**-0.5)
      places = nn.with_logical_partitioning(places, (None, "embed"))
      self.positions = self.param("positions", places, (spec.max_length, spec.d_model))
    if spec.embedding_norm:
      self.norm = Norm(spec.norm, spec.norm_epsilon)
    self.dropout = nn.Dropout(spec.dropout_rate)

  def __call__(self, tokens_BT, positions_BT, dtype, train):
    spec, positions_BT = self.spec, jnp.maximum(positions_BT, 0)
    x_BTD = self.tokens[tokens_BT].astype(dtype)
    if spec.embedding_scale:
      x_BTD = x_BTD * jnp.asarray(math.sqrt(spec.d_model), dtype)
    if spec.positions == "learned":
      x_BTD = x_BTD + self.positions[positions_BT].astype(dtype)
    elif spec.positions == "sinusoidal":
      x_BTD = x_BTD + sinusoids(positions_BT, spec.d_model).astype(dtype)
    if spec.embedding_norm:
      x_BTD = self.norm(x_BTD)
    return self.dropout(x_BTD, deterministic=not train)


class LanguageModelHead(nn.Module):
  """Logits of every token, float32; the matrix is the embedding table when they are tied."""

  spec: Spec

  @nn.compact
  def __call__(self, x_BTD, table_VD):
    spec = self.spec
    if spec.tie_embeddings:
      logits_BTV = linear(x_BTD, table_VD.T, dtype="float32")
    else:
      axes = ("embed", "vocab")
      project = Projection((spec.vocab_size,), axes, use_bias=False, dtype="float32", name="out")
      logits_BTV = project(x_BTD)
    if spec.logit_soft_cap:
      logits_BTV = spec.logit_soft_cap * jnp.tanh(logits_BTV / spec.logit_soft_cap)
    return logits_BTV
