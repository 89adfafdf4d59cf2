"""Softmax cross-entropy from logits, with a backward pass that writes the gradient once.

Legend: B batch, T position, V vocabulary.
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
      the logits it keeps one number a token) or "auto", which is "fused" everywhere.

  Returns:
    loss_BT in nats, float32; correct_BT, bool, True also where other logits tie with the target's.
  """
  if implementation not in IMPLEMENTATIONS:
    raise unknown("implementation of cross_entropy", implementation, IMPLEMENTATIONS)
  form = _reference if implementation == "reference" else _fused
  return form(logits_BTV, targets_BT)


def _reference(logits_BTV, targets_BT):
  scores_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32), axis=-1)
  target_BT = jnp.take_along_axis(scores_BTV, targets_BT[..., None], axis=-1)[..., 0]
  return -target_BT, target_BT >= jnp.max(scores_BTV, axis=-1)


@jax.custom_vjp
def _fused(logits_BTV, targets_BT):
  return _fused_forward(logits_BTV, targets_BT)[0]


def _fused_forward(logits_BTV, targets_BT):
  top_BT = jnp.max(logits_BTV, axis=-1).astype(jnp.float32)
  shifted_BTV = logits_BTV.astype(jnp.float32) - top_BT[..., None]
  lse_BT = jnp.log(jnp.sum(jnp.exp(shifted_BTV), axis=-1)) + top_BT
  target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
  target_BT = target_BT.astype(jnp.float32)
  return (lse_BT - target_BT, target_BT >= top_BT), (logits_BTV, targets_BT, lse_BT)


def _fused_backward(residuals, cotangents):
  logits_BTV, targets_BT, lse_BT = residuals
  weight_BT = cotangents[0]
  softmax_BTV = jnp.exp(logits_BTV.astype(jnp.float32) - lse_BT[..., None])
  hit_BTV = jnp.arange(logits_BTV.shape[-1]).reshape((1,) * targets_BT.ndim + (-1,))
  hit_BTV = (hit_BTV == targets_BT[..., None]).astype(jnp.float32)
  # One elementwise expression over the vocabulary: XLA writes it into the logits' own buffer.
  gradient_BTV = (softmax_BTV - hit_BTV) * weight_BT[..., None]
  return gradient_BTV.astype(logits_BTV.dtype), None


_fused.defvjp(_fused_forward, _fused_backward)
