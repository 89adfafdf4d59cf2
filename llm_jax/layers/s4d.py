"""S4D: one diagonal complex state space model for each channel, then a gated linear unit.

Legend: B batch, T position, D model, P stored states of a channel: one of each conjugate pair,
N = 2P. Q = D P, all stored states.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.errors import UserError
from llm_jax.modules import Projection
from llm_jax.ops.linear_recurrence import linear_recurrence
from llm_jax.state_space import log_steps


class S4d(nn.Module):
  """V g * sigmoid(W g) of g = GELU(2 Re(C h) + D x), with dh/dt = A h + x for each channel.

  The input counts as constant over each step. Eigenvalues begin at -1/2 + i pi n ("S4D-Lin").
  The state is {"ssm_re", "ssm_im"}, each (B, D, P) float32: h over its discretised input map.

  Attributes:
    d_state: N, states of a channel; conjugate pairs, so that P = N / 2 complex numbers are kept.
    implementation: form of `ops/linear_recurrence`.

  Source: Gu, Gupta, Goel & Re 2022, arXiv:2206.11893, sections 3 and 4 (eq. 2, S4D-Lin);
  names and initial values of state-spaces/s4, models/s4/s4d.py.
  """

  d_state: int = 64
  implementation: str = "auto"

  no_decay = ("log_step", "log_A_re", "A_im", "C_re", "C_im", "D")

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("s4d")
    if self.d_state < 2 or self.d_state % 2:
      raise UserError(
        f"s4d keeps conjugate pairs: d_state must be even and at least 2, found {self.d_state}."
      )
    d_model = x_BTD.shape[-1]
    decay_DP, C_DP = self._system(d_model)
    initial_BDP = None if state is None else jax.lax.complex(state["ssm_re"], state["ssm_im"])
    starts_BT = context.starts_BT if state is None else jnp.zeros_like(context.real_BT)
    y_BTD, last_BDP = _run(
      x_BTD.astype(jnp.float32),
      decay_DP,
      C_DP,
      initial_BDP,
      context.real_BT,
      starts_BT,
      self.implementation,
    )
    D_D = self._weight("D", nn.initializers.normal(1.0), (d_model,), "embed")
    y_BTD = y_BTD.astype(x_BTD.dtype) + x_BTD * D_D.astype(x_BTD.dtype)[None, None]
    if state is not None:
      state = {"ssm_re": last_BDP.real, "ssm_im": last_BDP.imag}
    scale = 0.5 / context.num_blocks
    out = Projection((2, d_model), ("embed", None, "mlp"), scale=scale, name="out_proj")
    y_BT2D = out(jax.nn.gelu(y_BTD, approximate=False))
    return y_BT2D[:, :, 0] * jax.nn.sigmoid(y_BT2D[:, :, 1]), state

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    zeros_BDP = jnp.zeros((batch, d_model, self.d_state // 2), jnp.float32)
    return {"ssm_re": zeros_BDP, "ssm_im": zeros_BDP}

  def _weight(self, name, init, shape, *axes):
    # float32 however it is stored: most are exponents.
    return self.param(name, nn.with_logical_partitioning(init, axes), shape).astype(jnp.float32)

  def _system(self, d_model):
    """The discretised diagonal, and the output map times the discretised input map of ones."""
    shape, axes = (d_model, self.d_state // 2), ("embed", "state")
    log_re_DP = self._weight("log_A_re", nn.initializers.constant(math.log(0.5)), shape, *axes)
    im_DP = self._weight("A_im", _frequencies, shape, *axes)
    complex_normal = nn.initializers.normal(math.sqrt(0.5))  # variance 1 with both parts
    C_re_DP = self._weight("C_re", complex_normal, shape, *axes)
    C_im_DP = self._weight("C_im", complex_normal, shape, *axes)
    step_D1 = jnp.exp(self._weight("log_step", log_steps, (d_model,), "embed"))[:, None]
    A_DP = jax.lax.complex(-jnp.exp(log_re_DP), im_DP)
    C_DP = jax.lax.complex(C_re_DP, C_im_DP)
    exponent_DP = A_DP * step_D1
    # expm1: steps are so small that exp(z) - 1 would keep three digits.
    return jnp.exp(exponent_DP), C_DP * jnp.expm1(exponent_DP) / A_DP


def _frequencies(key, shape):
  """pi n in each row."""
  return jnp.broadcast_to(math.pi * jnp.arange(shape[1], dtype=jnp.float32), shape)


# The states of all channels at all positions are the layer's largest arrays by far: the backward
# pass makes them again.
@functools.partial(jax.checkpoint, static_argnums=(6,))
def _run(x_BTD, decay_DP, C_DP, initial_BDP, real_BT, starts_BT, implementation):
  """y_t = 2 Re(C h_t) with h_t = decay h_{t-1} + x_t, and the last h."""
  (batch, length, d_model), p = x_BTD.shape, decay_DP.shape[1]
  flat = (batch, length, d_model * p)
  real_BT1, starts_BT1 = real_BT[:, :, None], starts_BT[:, :, None]
  step_BTQ = jnp.where(real_BT1, decay_DP.reshape(1, 1, -1), 1)
  input_BTD = jnp.where(real_BT1, x_BTD, 0).astype(jnp.complex64)
  h_BTQ, last_BQ = linear_recurrence(
    jnp.where(starts_BT1, 0, step_BTQ),
    jnp.broadcast_to(input_BTD[..., None], (*x_BTD.shape, p)).reshape(flat),
    None if initial_BDP is None else initial_BDP.reshape(batch, -1),
    implementation=implementation,
  )
  h_BTDP = h_BTQ.reshape(batch, length, d_model, p)
  y_BTD = jnp.einsum("btdp,dp->btd", h_BTDP.real, 2 * C_DP.real)
  y_BTD -= jnp.einsum("btdp,dp->btd", h_BTDP.imag, 2 * C_DP.imag)
  return y_BTD, last_BQ.reshape(batch, d_model, p)
