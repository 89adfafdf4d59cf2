"""Griffin's recurrent block: a short convolution, a real gated linear recurrent unit, and a gate.

Legend: B batch, T position, D model, H hidden, N blocks of the gates' matrices, I = J = H / N,
K taps.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.errors import UserError
from llm_jax.modules import Projection
from llm_jax.ops.linear import linear
from llm_jax.ops.linear_recurrence import linear_recurrence
from llm_jax.state_space import ShortConvolution

_SHARPNESS = 8.0  # c of eq. 6
_SLOWEST, _FASTEST = 0.999, 0.9  # range of the decays' c-th roots at the start
_SMALLEST = 2.5e-7  # where the square root's gradient reaches 1,000 and stays
_small = nn.initializers.variance_scaling(0.01, "fan_in", "normal")  # the convolution's kernel


class Rglru(nn.Module):
  """y = out(gelu(gate(x)) * RG-LRU(convolution(in(x)))), with

    r_t = sigmoid(recurrence_gate(u_t)),  i_t = sigmoid(input_gate(u_t)),
    a_t = exp(-8 softplus(Lambda) r_t),   h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t u_t),

  where the first token of a document has a_t = 0 and no square root. The state is
  {"conv": (B, K - 1, H), the last inputs of the convolution, "rnn": (B, H) float32}.

  Attributes:
    hidden_size: H; 0 is d_model.
    blocks: N, diagonal blocks of the gates' matrices.
    d_conv: K, taps of the convolution.
    implementation: form of `ops/linear_recurrence`.

  Source: De et al. 2024, arXiv:2402.19427, section 2.4, eq. 1-6; the first token, the bounded
  gradient and initial values, but for the output projection's: google-deepmind/recurrentgemma,
  recurrentgemma/jax/layers.py.
  """

  hidden_size: int = 0
  blocks: int = 4
  d_conv: int = 4
  implementation: str = "auto"

  no_decay = ("Lambda",)

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("rglru")
    d_model = x_BTD.shape[-1]
    hidden = self._hidden(d_model)
    gate_BTH = Projection((hidden,), ("embed", "mlp"), name="gate")(x_BTD)
    u_BTH = Projection((hidden,), ("embed", "mlp"), name="in")(x_BTD)
    conv = None if state is None else (state["conv"],)
    convolution = ShortConvolution(self.d_conv, init=_small, name="conv1d")
    (u_BTH,), (conv,) = convolution((u_BTH,), context, conv)
    h_BTH, rnn = self._recurrence(u_BTH, context, state)
    out = Projection((d_model,), ("mlp", "embed"), scale=0.5 / context.num_blocks, name="out")
    y_BTD = out(h_BTH * jax.nn.gelu(gate_BTH, approximate=True))
    return y_BTD, None if state is None else {"conv": conv, "rnn": rnn}

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    hidden = self._hidden(d_model)
    return {
      "conv": jnp.zeros((batch, self.d_conv - 1, hidden), dtype),
      "rnn": jnp.zeros((batch, hidden), jnp.float32),
    }

  @nn.nowrap
  def _hidden(self, d_model):
    hidden = self.hidden_size or d_model
    if self.blocks < 1 or hidden % self.blocks:
      raise UserError(
        f"rglru's gates are {self.blocks} diagonal blocks, which must divide its hidden_size "
        f"{hidden} (0 in the config is d_model). Change one of the two."
      )
    return hidden

  def _recurrence(self, u_BTH, context, state):
    """The RG-LRU in float32: its output in u's dtype, and the last state."""
    Lambda_H = self.param(
      "Lambda", nn.with_logical_partitioning(_initial_decays, ("mlp",)), u_BTH.shape[-1:]
    )
    r_BTH = jax.nn.sigmoid(_BlockDiagonal(self.blocks, name="recurrence_gate")(u_BTH))
    i_BTH = jax.nn.sigmoid(_BlockDiagonal(self.blocks, name="input_gate")(u_BTH))
    log_a_BTH = -_SHARPNESS * r_BTH * jax.nn.softplus(Lambda_H.astype(jnp.float32))[None, None]
    first_BT1, real_BT1 = context.starts_BT[:, :, None], context.real_BT[:, :, None]
    # expm1: decays so near 1 that 1 - a^2 would keep no digit.
    scale_BTH = jnp.where(first_BT1, 1, _bounded_sqrt(-jnp.expm1(2 * log_a_BTH)))
    input_BTH = jnp.where(real_BT1, scale_BTH * i_BTH * u_BTH.astype(jnp.float32), 0)
    decay_BTH = jnp.where(real_BT1, jnp.exp(log_a_BTH), 1)
    if state is None:
      decay_BTH = jnp.where(first_BT1, 0, decay_BTH)
    h_BTH, last_BH = linear_recurrence(
      decay_BTH,
      input_BTH,
      None if state is None else state["rnn"],
      implementation=self.implementation,
    )
    return h_BTH.astype(u_BTH.dtype), last_BH


@jax.custom_vjp
def _bounded_sqrt(x):
  """sqrt, with a gradient of at most 1,000: at 0 it would be infinite."""
  return jnp.sqrt(x)


def _bounded_sqrt_forward(x):
  return jnp.sqrt(x), x


def _bounded_sqrt_backward(x, gradient):
  return (0.5 * gradient * jax.lax.rsqrt(jnp.maximum(x, _SMALLEST)),)


_bounded_sqrt.defvjp(_bounded_sqrt_forward, _bounded_sqrt_backward)


def _initial_decays(key, shape, dtype=jnp.float32):
  """Lambda such that exp(-softplus(Lambda)) is spread evenly over the area of a ring."""
  square = jax.random.uniform(key, shape, dtype, _FASTEST**2, _SLOWEST**2)
  return jnp.log(jnp.expm1(-0.5 * jnp.log(square)))


class _BlockDiagonal(nn.Module):
  """An affine map of H channels onto themselves, each block of them on its own, in float32."""

  blocks: int

  @nn.compact
  def __call__(self, x_BTH):
    batch, length, hidden = x_BTH.shape
    width = hidden // self.blocks
    init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", batch_axis=0)
    kernel_NIJ = self.param(
      "kernel",
      nn.with_logical_partitioning(init, ("heads", None, None)),
      (self.blocks, width, width),
    )
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("heads", None))
    bias_NJ = self.param("bias", zeros, (self.blocks, width))
    x_BTNI = x_BTH.reshape(batch, length, self.blocks, width)
    product = lambda x_BTI, kernel_IJ: linear(x_BTI, kernel_IJ, dtype=jnp.float32)
    y_BTNJ = jax.vmap(product, in_axes=(2, 0), out_axes=2)(x_BTNI, kernel_NIJ)
    return (y_BTNJ + bias_NJ.astype(jnp.float32)[None, None]).reshape(x_BTH.shape)
