"""The heads: what is read off the stream behind the stack.

Legend: B batch, T position, D model, V vocabulary, C classes.
"""

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.contract import document_positions
from llm_jax.models.spec import Spec
from llm_jax.modules import Norm, Projection
from llm_jax.ops.activations import activation
from llm_jax.ops.linear import linear
from llm_jax.ops.positions import sinusoids


class Heads(nn.Module):
  """Every head of the spec, by name; a model takes them into its own scope.

  "language_model" and "masked_lm": float32 logits of every token of the vocabulary, (B, T, V).
  "pooler": tanh of a projection of the row's first token, (B, D). "next_sentence": two float32
  logits of that, (B, 2). "classification": float32 logits of the classes, (B, C), of what
  `spec.pooling` reads. "token_classification": the same of each token, (B, T, C). "span": float32
  logits of each token to begin and to end an answer, (B, T, 2), -inf at padding. "embedding": what
  `spec.pooling` reads, of length one, float32 (B, D). "reconstruction": float32 logits of every
  token of the vocabulary, (B, T, V), of the row's last token and each place in the row.

  Sources: Devlin et al. 2018, arXiv:1810.04805, sections 3.1 and 4, and its code; of the embedding
  Reimers & Gurevych 2019, arXiv:1908.10084, section 3; of the reconstruction Poli et al. 2024,
  arXiv:2403.17844, the autoencoder of its code.
  """

  spec: Spec

  @nn.compact
  def __call__(self, x_BTD, segments_BT, table_VD):
    """The main head's logits (None without one, or if that is the pooler), and all heads' outputs.

    Args:
      x_BTD: the stream after the final norm.
      segments_BT: 0 at padding.
      table_VD: the embedding table, for tied weights.
    """
    spec, made = self.spec, {}
    asked = set(spec.heads)
    for name in spec.heads:
      if name in ("language_model", "masked_lm"):
        head = VocabularyHead(spec, transform=name == "masked_lm", name="head")
        made[name] = head(x_BTD, table_VD)
    reads = spec.pooling if asked & {"classification", "embedding"} else ""
    if asked & {"pooler", "next_sentence"} or reads == "pooler":
      project = Projection((spec.d_model,), ("embed", None), name="pooler")
      pooled_BD = jnp.tanh(project(pool(x_BTD, segments_BT, "first")))
    if reads:
      read_BD = pooled_BD if reads == "pooler" else pool(x_BTD, segments_BT, reads)
    if "pooler" in asked:
      made["pooler"] = pooled_BD
    if "next_sentence" in asked:
      made["next_sentence"] = _logits(2, "next_sentence")(pooled_BD)
    if "classification" in asked:
      made["classification"] = _logits(spec.num_classes, "classification")(read_BD)
    if "token_classification" in asked:
      made["token_classification"] = _logits(spec.num_classes, "token_classification")(x_BTD)
    if "span" in asked:
      real_BT1 = (segments_BT > 0)[..., None]
      made["span"] = jnp.where(real_BT1, _logits(2, "span")(x_BTD), -jnp.inf)
    if "embedding" in asked:
      read_BD = read_BD.astype(jnp.float32)
      length_B1 = jnp.sqrt(jnp.sum(read_BD**2, axis=-1, keepdims=True))
      made["embedding"] = read_BD / jnp.maximum(length_B1, 1e-6)
    if "reconstruction" in asked:
      made["reconstruction"] = Reconstruction(spec, name="reconstruction")(x_BTD, segments_BT)
    main = spec.heads[0] if spec.heads else "pooler"
    return (None if main in ("pooler", "embedding") else made[main]), made


def pool(x_BTD, segments_BT, what: str):
  """Of each row the first or the last real token, or the mean of all of them; (B, D)."""
  real_BT = segments_BT > 0
  if what == "mean":
    count_B1 = jnp.maximum(jnp.sum(real_BT, axis=1, keepdims=True), 1)
    sum_BD = jnp.sum(jnp.where(real_BT[..., None], x_BTD, 0), axis=1, dtype=jnp.float32)
    return (sum_BD / count_B1).astype(x_BTD.dtype)
  last = real_BT.shape[1] - 1
  place_B = jnp.argmax(real_BT, axis=1)
  if what == "last":
    place_B = last - jnp.argmax(real_BT[:, ::-1], axis=1)
  return jnp.take_along_axis(x_BTD, place_B[:, None, None], axis=1)[:, 0]


def _logits(classes: int, name: str) -> Projection:
  return Projection((classes,), ("embed", None), dtype="float32", name=name)


class Reconstruction(nn.Module):
  """What stands at each place of a row, by what the stream of its last real token holds.

  That and the sines and cosines of the place go through two layers as wide as the stream, each a
  norm, a projection and a GELU, and then a norm and a projection to float32 logits.
  """

  spec: Spec

  @nn.compact
  def __call__(self, x_BTD, segments_BT):
    """(B, T, V); places count a row's real tokens, which are one document."""
    spec, (gelu, _) = self.spec, activation("gelu")
    norm = lambda name: Norm(spec.norm, spec.norm_epsilon, name=name)
    places_BTD = sinusoids(document_positions(segments_BT), spec.d_model, halves=True)
    y_BTD = pool(x_BTD, segments_BT, "last")[:, None] + places_BTD.astype(x_BTD.dtype)
    for i in range(2):
      project = Projection((spec.d_model,), ("embed", None), name=f"layer_{i}")
      y_BTD = gelu(project(norm(f"norm_{i}")(y_BTD)))
    project = Projection((spec.vocab_size,), ("embed", "vocab"), dtype="float32", name="out")
    return project(norm("norm_2")(y_BTD))


class VocabularyHead(nn.Module):
  """Logits of every token, float32; the matrix is the embedding table when they are tied.

  Attributes:
    spec: the hyperparameters.
    transform: whether a projection, a GELU and a norm come first.
  """

  spec: Spec
  transform: bool = False

  @nn.compact
  def __call__(self, x_BTD, table_VD):
    spec = self.spec
    if self.transform:
      gelu, _ = activation("gelu")
      x_BTD = gelu(Projection((spec.d_model,), ("embed", None), name="transform")(x_BTD))
      x_BTD = Norm(spec.norm, spec.norm_epsilon, name="norm")(x_BTD)
    if spec.tie_embeddings:
      logits_BTV = linear(x_BTD, table_VD.T, dtype="float32")
    else:
      axes = ("embed", "vocab")
      project = Projection((spec.vocab_size,), axes, use_bias=False, dtype="float32", name="out")
      logits_BTV = project(x_BTD)
    if spec.logit_scale != 1.0:
      logits_BTV = spec.logit_scale * logits_BTV
    if spec.head_bias:
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
      bias_V = self.param("bias", zeros, (spec.vocab_size,), jnp.float32)
      logits_BTV = logits_BTV + bias_V.astype(jnp.float32)[None, None]
    if spec.logit_soft_cap:
      logits_BTV = spec.logit_soft_cap * jnp.tanh(logits_BTV / spec.logit_soft_cap)
    return logits_BTV
