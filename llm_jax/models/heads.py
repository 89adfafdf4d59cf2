"""The heads: what is read off the stream behind the stack.

Legend: B batch, T position, D model, V vocabulary.
"""

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.models.spec import Spec
from llm_jax.modules import Norm, Projection
from llm_jax.ops.activations import activation
from llm_jax.ops.linear import linear


class Heads(nn.Module):
  """Every head of the spec, by name; a model takes them into its own scope.

  "language_model" and "masked_lm": float32 logits of every token of the vocabulary, (B, T, V).
  "pooler": tanh of a projection of the row's first token, (B, D). "next_sentence": two float32
  logits of that, (B, 2).

  Source of the last three: Devlin et al. 2018, arXiv:1810.04805, section 3.1, and its code.
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
    made = {}
    for name in self.spec.heads:
      if name in ("language_model", "masked_lm"):
        head = VocabularyHead(self.spec, transform=name == "masked_lm", name="head")
        made[name] = head(x_BTD, table_VD)
    if {"pooler", "next_sentence"} & set(self.spec.heads):
      first_B1 = jnp.argmax(segments_BT > 0, axis=1)[:, None, None]
      first_BD = jnp.take_along_axis(x_BTD, first_B1, axis=1)[:, 0]
      project = Projection((self.spec.d_model,), ("embed", None), name="pooler")
      pooled_BD = jnp.tanh(project(first_BD))
    if "pooler" in self.spec.heads:
      made["pooler"] = pooled_BD
    if "next_sentence" in self.spec.heads:
      project = Projection((2,), ("embed", None), dtype="float32", name="next_sentence")
      made["next_sentence"] = project(pooled_BD)
    main = self.spec.heads[0] if self.spec.heads else "pooler"
    return (None if main == "pooler" else made[main]), made


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
