"""How a next token is drawn from logits: pure functions, all in float32.

Legend: B batch, V vocabulary.
"""

import jax
import jax.numpy as jnp
from flax import struct


def likeliest(logits_BV):
  """The token of the largest logit, the first of equal ones; int32 (B,)."""
  return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


@struct.dataclass
class Draw:
  """How to sample: from softmax(logits / temperature), cut to the top k, then to the top p, then
  by min p. Numbers are traced; a cut that is None keeps all and costs nothing.

  Attributes:
    temperature: above 0; toward 0 the likeliest token always wins.
    top_k, top_p, min_p: as of the functions below.
  """

  temperature: jax.Array
  top_k: jax.Array | None = None
  top_p: jax.Array | None = None
  min_p: jax.Array | None = None

  def __call__(self, key_B, logits_BV):
    """One token a row, int32 (B,).

    Args:
      key_B: a random key for each row, so that no row's draw depends on the others.
      logits_BV: any float type; -inf is never drawn.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    # The largest is 0 first: divided by a temperature near 0 it would be infinite.
    logits_BV = (logits_BV - logits_BV.max(axis=-1, keepdims=True)) / self.temperature
    for keep, limit in (
      (keep_top_k, self.top_k),
      (keep_top_p, self.top_p),
      (keep_min_p, self.min_p),
    ):
      if limit is not None:
        logits_BV = keep(logits_BV, limit)
    return jax.vmap(jax.random.categorical)(key_B, logits_BV).astype(jnp.int32)


def keep_top_k(logits_BV, k):
  """The k largest logits of each row, all others -inf; what ties with the k-th largest stays.

  Args:
    logits_BV: float32.
    k: how many, at least 1, possibly traced; more than V keeps all.

  Source: Fan et al. 2018, arXiv:1805.04833, section 5.1.
  """
  descending_BV = -jnp.sort(-logits_BV, axis=-1)
  least_B1 = jnp.take(descending_BV, jnp.minimum(k, logits_BV.shape[-1]) - 1, axis=-1)[:, None]
  return jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)


def keep_top_p(logits_BV, p):
  """The smallest set of likeliest tokens that has probability p together, all others -inf.

  What ties with the least likely of the set stays; one token always does.

  Args:
    logits_BV: float32; -inf is allowed.
    p: in (0, 1], possibly traced; 1 keeps all.

  Source: Holtzman et al. 2019, arXiv:1904.09751, eq. 2 and 3.
  """
  descending_BV = -jnp.sort(-logits_BV, axis=-1)
  probabilities_BV = jax.nn.softmax(descending_BV)
  likelier_BV = jnp.cumsum(probabilities_BV, axis=-1) - probabilities_BV
  kept_BV = (likelier_BV < p) | (p >= 1.0)  # rounding may take the sum to 1 before the end
  least_B1 = jnp.min(jnp.where(kept_BV, descending_BV, jnp.inf), axis=-1, keepdims=True)
  return jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)


def keep_min_p(logits_BV, p):
  """The tokens at least p times as likely as the likeliest, all others -inf.

  Args:
    logits_BV: float32; -inf is allowed.
    p: in [0, 1], possibly traced; 0 keeps all, 1 the likeliest.

  Source: Nguyen et al. 2024, arXiv:2407.01082, section 3.
  """
  largest_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
  return jnp.where(logits_BV >= largest_B1 + jnp.log(p), logits_BV, -jnp.inf)
