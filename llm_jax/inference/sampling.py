"""How a next token is drawn from logits: pure functions, all in float32.

Legend: B batch, V vocabulary.
"""

import jax
import jax.numpy as jnp


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


def sample(key_B, logits_BV, temperature, top_k=None, top_p=None):
  """One token a row from softmax(logits / temperature), cut to the top k, then to the top p.

  Args:
    key_B: a random key for each row, so that no row's draw depends on the others.
    logits_BV: any float type.
    temperature: above 0, possibly traced; toward 0 the likeliest token always wins.
    top_k, top_p: as above; None keeps all and costs no sort.

  Returns:
    int32 (B,).
  """
  logits_BV = logits_BV.astype(jnp.float32) / temperature
  if top_k is not None:
    logits_BV = keep_top_k(logits_BV, top_k)
  if top_p is not None:
    logits_BV = keep_top_p(logits_BV, top_p)
  return jax.vmap(jax.random.categorical)(key_B, logits_BV).astype(jnp.int32)
