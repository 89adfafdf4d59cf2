"""Which token goes to which expert, and how even that is.

Legend: B batch row, T position, E experts, K choices of a token.
"""

import jax
import jax.numpy as jnp


def route(logits_BTE: jax.Array, top_k: int, renormalise: bool = True):
  """Each token's experts and their weights: softmax over all experts, then the k largest.

  Args:
    logits_BTE: the router's, float32.
    top_k: experts a token.
    renormalise: whether the k weights are divided by their sum, as Mixtral does.

  Returns:
    weights_BTK float32, experts_BTK int32 (best first; the lower number where equal) and
    probabilities_BTE, the softmax.

  Sources: Shazeer et al. 2017, arXiv:1701.06538; order of softmax and choice, renormalisation:
  Jiang et al. 2024, arXiv:2401.04088, section 2.1.
  """
  probabilities_BTE = jax.nn.softmax(logits_BTE.astype(jnp.float32), axis=-1)
  weights_BTK, experts_BTK = jax.lax.top_k(probabilities_BTE, top_k)
  if renormalise:
    weights_BTK = weights_BTK / weights_BTK.sum(-1, keepdims=True)
  return weights_BTK, experts_BTK, probabilities_BTE


def expert_load(experts_BTK: jax.Array, real_BT: jax.Array, num_experts: int) -> jax.Array:
  """Share of each row's choices that fell on each expert, (B, E); padding does not count."""
  chosen_BTE = jax.nn.one_hot(experts_BTK, num_experts).sum(axis=2)
  return _mean(chosen_BTE, real_BT) / experts_BTK.shape[2]


def balance_loss(probabilities_BTE: jax.Array, load_BE: jax.Array, real_BT: jax.Array) -> jax.Array:
  """E sum_i f_i P_i of each row: 1 if the router is uniform, up to E if one expert takes all.

  Args:
    probabilities_BTE: the router's softmax; P_i is its mean over real tokens, and takes the
      gradient.
    load_BE: f_i, from `expert_load`.
    real_BT: False at padding.

  Returns:
    (B,) float32; 0 in a row of all padding.

  Source: Fedus et al. 2021, arXiv:2101.03961, eq. 4-6, with f over all k choices.
  """
  return load_BE.shape[-1] * (load_BE * _mean(probabilities_BTE, real_BT)).sum(-1)


def z_loss(logits_BTE: jax.Array, real_BT: jax.Array) -> jax.Array:
  """Mean square of each real token's log sum exp of logits, (B,): keeps the logits small.

  Source: Zoph et al. 2022, arXiv:2202.08906, eq. 5.
  """
  squares_BT = jnp.square(jax.nn.logsumexp(logits_BTE.astype(jnp.float32), axis=-1))
  return _mean(squares_BT[..., None], real_BT)[:, 0]


def arrival(experts_BTK: jax.Array, real_BT: jax.Array, num_experts: int) -> jax.Array:
  """How many earlier choices of the row fell on the same expert, (B, T, K) int32.

  Earlier is the token before; within a token, the better choice. Padding counts nowhere; at
  padding itself the number means nothing.
  """
  batch, length, top_k = experts_BTK.shape
  chosen_BTKE = jax.nn.one_hot(experts_BTK, num_experts, dtype=jnp.int32)
  chosen_BAE = jnp.where(real_BT[:, :, None, None], chosen_BTKE, 0).reshape(
    batch, length * top_k, num_experts
  )
  before_BTKE = (jnp.cumsum(chosen_BAE, axis=1) - chosen_BAE).reshape(chosen_BTKE.shape)
  return jnp.take_along_axis(before_BTKE, experts_BTK[..., None], axis=3)[..., 0]


def _mean(values_BTE, real_BT):
  """Mean over a row's real tokens; 0 where there is none."""
  count_B1 = jnp.maximum(real_BT.sum(axis=1), 1)[:, None]
  return jnp.where(real_BT[..., None], values_BTE, 0).sum(axis=1) / count_B1
