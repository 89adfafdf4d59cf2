"""The one matrix product behind every projection.

Legend: N tokens (batch and position flattened), D inputs, F outputs.
"""

import functools
import math

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x_ND, w_DF, dtype):
  return jnp.matmul(x_ND, w_DF, preferred_element_type=dtype)


def _matmul_forward(x_ND, w_DF, dtype):
  return _matmul(x_ND, w_DF, dtype), (x_ND, w_DF)


def _matmul_backward(dtype, residuals, dy_NF):
  x_ND, w_DF = residuals
  dy_NF = dy_NF.astype(x_ND.dtype)
  dx_ND = jax.lax.dot_general(dy_NF, w_DF, (((1,), (1,)), ((), ())))
  # Contracting tokens with tokens: autodiff's own order makes XLA:CPU copy dy transposed, which
  # costs three times the product itself at (2048, 256) by (2048, 1024).
  dw_DF = jax.lax.dot_general(x_ND, dy_NF, (((0,), (0,)), ((), ())))
  return dx_ND, dw_DF


_matmul.defvjp(_matmul_forward, _matmul_backward)


def linear(x: jax.Array, kernel: jax.Array, inputs: int = 1, dtype=None) -> jax.Array:
  """Contracts the last `inputs` axes of x with the first `inputs` axes of the kernel.

  Args:
    x: (..., *input shape).
    kernel: (*input shape, *output shape), cast to x's dtype.
    inputs: how many axes are contracted; 2 for attention's output projection (heads, head size).
    dtype: of the result; None: x's. Logits ask for float32.

  Returns:
    (..., *output shape).
  """
  if x.shape[x.ndim - inputs :] != kernel.shape[:inputs]:
    raise ValueError(f"x of shape {x.shape} does not end as the kernel {kernel.shape} begins")
  leading, outputs = x.shape[: x.ndim - inputs], kernel.shape[inputs:]
  d = math.prod(kernel.shape[:inputs])
  y_NF = _matmul(
    x.reshape(math.prod(leading), d),
    kernel.reshape(d, math.prod(outputs)).astype(x.dtype),
    jnp.dtype(dtype or x.dtype),
  )
  return jnp.reshape(y_NF, leading + outputs)
