"""Layer norm and RMS norm over the last axis, computed in float32."""

import jax
import jax.numpy as jnp


def layer_norm(x, scale, bias=None, epsilon: float = 1e-5):
  """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis, in x's dtype.

  Source: Ba et al. 2016, arXiv:1607.06450, eq. 4.
  """
  x32 = x.astype(jnp.float32)
  mean = x32.mean(-1, keepdims=True)
  variance = jnp.square(x32 - mean).mean(-1, keepdims=True)
  y = (x32 - mean) * jax.lax.rsqrt(variance + epsilon) * _match(scale, x)
  return (y if bias is None else y + _match(bias, x)).astype(x.dtype)


def rms_norm(x, scale, epsilon: float = 1e-6):
  """x / sqrt(mean(x^2) + epsilon) * scale over the last axis, in x's dtype.

  Source: Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4.
  """
  x32 = x.astype(jnp.float32)
  y = x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + epsilon)
  return (y * _match(scale, x)).astype(x.dtype)


def _match(parameter, x):
  """The parameter with leading axes of size one: ranks are never promoted in silence."""
  return parameter.reshape((1,) * (x.ndim - parameter.ndim) + parameter.shape)
