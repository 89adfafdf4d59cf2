"""Softmax cross-entropy from logits, with a backward pass that writes the gradient once.

Legend: B batch, T position, N tokens (batch and position flattened), V vocabulary.
"""

import jax
import jax.numpy as jnp

from llm_jax.errors import unknown

IMPLEMENTATIONS = ("auto", "reference", "fused")


def cross_entropy(
  logits_BTV: jax.Array, targets_BT: jax.Array, *, implementation: str = "auto"
) -> tuple[jax.Array, jax.Array]:
  """-log softmax(logits)[target] of each token, and whether the target had the largest logit.

  Args:
    logits_BTV: scores, any float type; the sums are float32. Any leading axes will do.
    targets_BT: int, in [0, V).
    implementation: "reference" (log_softmax under autodiff), "fused" (own backward pass: beside
      the logits it keeps one number a token, and the gradient takes the logits' place in memory)
      or "auto", which is "fused": 60 ms against 80 with the head's products (2,048 tokens, width
      256, 4,096 pieces, two CPU cores), and 34 MB against 101.

  Returns:
    loss_BT in nats, float32; correct_BT, bool, True also where other logits tie with the target's.
  """
  loss_BT, _, correct_BT = both_entropies(logits_BTV, targets_BT, implementation=implementation)
  return loss_BT, correct_BT


def both_entropies(
  logits_BTV: jax.Array, targets_BT: jax.Array, *, implementation: str = "auto"
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`cross_entropy`, and beside it that of the uniform distribution, -mean(log softmax(logits)).

  With labels smoothed by e the loss is (1 - e) times the first and e times the second; what
  gradients both bring is still written once.

  Returns:
    loss_BT, uniform_BT in nats, float32; correct_BT, bool.

  Source: Szegedy et al. 2015, arXiv:1512.00567, section 7.
  """
  if implementation not in IMPLEMENTATIONS:
    raise unknown("implementation of cross_entropy", implementation, IMPLEMENTATIONS)
  form = _reference if implementation == "reference" else _fused
  found = form(logits_BTV.reshape(-1, logits_BTV.shape[-1]), targets_BT.reshape(-1))
  return tuple(value_N.reshape(targets_BT.shape) for value_N in found)


def _reference(logits_NV, targets_N):
  scores_NV = jax.nn.log_softmax(logits_NV.astype(jnp.float32), axis=-1)
  target_N = jnp.take_along_axis(scores_NV, targets_N[:, None], axis=-1)[:, 0]
  return -target_N, -jnp.mean(scores_NV, axis=-1), target_N >= jnp.max(scores_NV, axis=-1)


@jax.custom_vjp
def _fused(logits_NV, targets_N):
  return _fused_forward(logits_NV, targets_N)[0]


def _fused_forward(logits_NV, targets_N):
  top_N = jnp.max(logits_NV, axis=-1).astype(jnp.float32)
  shifted_NV = logits_NV.astype(jnp.float32) - top_N[:, None]
  rest_N = jnp.log(jnp.sum(jnp.exp(shifted_NV), axis=-1))
  lse_N = rest_N + top_N
  target_N = jnp.take_along_axis(logits_NV, targets_N[:, None], axis=-1)[:, 0]
  target_N = target_N.astype(jnp.float32)
  uniform_N = rest_N - jnp.mean(shifted_NV, axis=-1)
  return (lse_N - target_N, uniform_N, target_N >= top_N), (logits_NV, targets_N, lse_N)


def _fused_backward(residuals, cotangents):
  logits_NV, targets_N, lse_N = residuals
  target_N, uniform_N, _ = cotangents
  softmax_NV = jnp.exp(logits_NV.astype(jnp.float32) - lse_N[:, None])
  hit_NV = jnp.arange(logits_NV.shape[-1])[None] == targets_N[:, None]
  # One elementwise expression of flat arrays: with a (B, T, V) in it XLA:CPU no longer sees that
  # it may write into the logits' own buffer.
  gradient_NV = (softmax_NV - hit_NV.astype(jnp.float32)) * target_N[:, None]
  gradient_NV += (softmax_NV - 1 / logits_NV.shape[-1]) * uniform_N[:, None]
  return gradient_NV.astype(logits_NV.dtype), None


_fused.defvjp(_fused_forward, _fused_backward)
