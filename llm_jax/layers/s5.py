"""S5: a multi-input, multi-output state space model with a complex diagonal, and a gate.

Legend: B batch, T position, D model, P stored states: one of each conjugate pair, N = 2P.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.errors import UserError, unknown
from llm_jax.modules import Projection
from llm_jax.ops.linear import linear
from llm_jax.ops.linear_recurrence import linear_recurrence
from llm_jax.state_space import log_steps

_SLOWEST = -1e-4  # largest real part of an eigenvalue: longer documents than trained on stay stable


class S5(nn.Module):
  """y = 2 Re(C h) + D x with dh/dt = Lambda h + B x held constant over each step, then GELU, gate.

  The state is {"ssm_re", "ssm_im"}, each (B, P) float32.

  Attributes:
    d_state: N, states; conjugate pairs, so that P = N / 2 complex numbers are kept.
    blocks: how many independent copies of the initial diagonal; N is a multiple of twice as many.
    gate: "half" is g * sigmoid(W g), "full" is (V g) * sigmoid(W g), where g = GELU(y).
    implementation: form of `ops/linear_recurrence`.

  Source: Smith, Warrington & Linderman 2023, arXiv:2208.04933, section 3 and appendix B; initial
  values of lindermanlab/S5, s5/ssm.py and ssm_init.py.
  """

  d_state: int = 64
  blocks: int = 2
  gate: str = "half"
  implementation: str = "auto"

  no_decay = ("Lambda_re", "Lambda_im", "B_re", "B_im", "log_step")

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("s5")
    decay_P, B_DP, C_PD = self._system(x_BTD.shape[-1])
    u_BTN = linear(x_BTD, jnp.concatenate([B_DP.real, B_DP.imag], axis=1)).astype(jnp.float32)
    real_BT1 = context.real_BT[:, :, None]
    input_BTP = jnp.where(real_BT1, jax.lax.complex(*jnp.split(u_BTN, 2, axis=-1)), 0)
    step_BTP = jnp.where(real_BT1, decay_P[None, None], 1)
    if state is None:
      step_BTP = jnp.where(context.starts_BT[:, :, None], 0, step_BTP)
    h_BTP, last_BP = linear_recurrence(
      step_BTP,
      input_BTP,
      None if state is None else jax.lax.complex(state["ssm_re"], state["ssm_im"]),
      implementation=self.implementation,
    )
    h_BTN = jnp.concatenate([h_BTP.real, h_BTP.imag], axis=-1).astype(x_BTD.dtype)
    y_BTD = linear(h_BTN, jnp.concatenate([2 * C_PD.real, -2 * C_PD.imag], axis=0))
    D_D = self._weight("D", nn.initializers.normal(1.0), x_BTD.shape[-1:], "embed")
    y_BTD = y_BTD + x_BTD * D_D.astype(x_BTD.dtype)[None, None]
    if state is not None:
      state = {"ssm_re": last_BP.real, "ssm_im": last_BP.imag}
    return self._gated(y_BTD, context), state

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    zeros_BP = jnp.zeros((batch, self.d_state // 2), jnp.float32)
    return {"ssm_re": zeros_BP, "ssm_im": zeros_BP}

  def _weight(self, name, init, shape, *axes):
    # float32 however it is stored: most are exponents, and no complex number has two bfloat16s.
    return self.param(name, nn.with_logical_partitioning(init, axes), shape).astype(jnp.float32)

  def _complex(self, name, variance, shape, *axes):
    """A complex parameter, kept as two real ones of the given variance each."""
    init = nn.initializers.normal(math.sqrt(variance))
    return jax.lax.complex(
      self._weight(f"{name}_re", init, shape, *axes), self._weight(f"{name}_im", init, shape, *axes)
    )

  def _system(self, d_model):
    """The discretised diagonal, input and output maps, in complex64."""
    eigenvalues_P = self._eigenvalues()
    p = len(eigenvalues_P)
    re_P = self._weight("Lambda_re", _constant(eigenvalues_P.real), (p,), "state")
    im_P = self._weight("Lambda_im", _constant(eigenvalues_P.imag), (p,), "state")
    log_step_P = self._weight("log_step", log_steps, (p,), "state")
    # The paper draws a real B and a complex C of variance 1 / N and turns them into the eigenbasis.
    # That is unitary, its kept half isotropic, so what it makes of them can be drawn directly.
    B_DP = self._complex("B", 0.5 / self.d_state, (d_model, p), "embed", "state")
    C_PD = self._complex("C", 1 / self.d_state, (p, d_model), "state", "embed")
    lambda_P = jax.lax.complex(jnp.minimum(re_P, _SLOWEST), im_P)
    exponent_P = lambda_P * jnp.exp(log_step_P)
    # expm1: steps are so small that exp(z) - 1 would keep three digits.
    hold_P = jnp.expm1(exponent_P) / lambda_P
    return jnp.exp(exponent_P), B_DP * hold_P[None], C_PD

  def _eigenvalues(self):
    """One of each conjugate pair of eigenvalues of HiPPO-LegS without its low-rank part.

    That matrix is -1/2 on its diagonal and skew-symmetric beside it, so they are -1/2 + i w.
    """
    if self.d_state < 1 or self.blocks < 1 or self.d_state % (2 * self.blocks):
      raise UserError(
        f"s5 keeps conjugate pairs in equal blocks: d_state must be a multiple of 2 * blocks = "
        f"{2 * self.blocks}, found d_state = {self.d_state}. Change one of the two."
      )
    size = self.d_state // self.blocks
    root = np.sqrt(2 * np.arange(size) + 1)
    upper = 0.5 * np.triu(root[:, None] * root[None, :], 1)
    w = np.linalg.eigvalsh(-1j * (upper - upper.T))[: size // 2]
    return np.tile(-0.5 + 1j * w, self.blocks)

  def _gated(self, y_BTD, context):
    """GELU, then a sigmoid gate of it."""
    if self.gate not in ("half", "full"):
      raise unknown("gate of s5", self.gate, ("half", "full"))
    y_BTD = jax.nn.gelu(y_BTD, approximate=True)
    features, axes = y_BTD.shape[-1:], ("embed", "mlp")
    gate_BTD = jax.nn.sigmoid(Projection(features, axes, name="gate_proj")(y_BTD))
    if self.gate == "full":
      scale = 0.5 / context.num_blocks
      y_BTD = Projection(features, axes, scale=scale, name="out_proj")(y_BTD)
    return y_BTD * gate_BTD


def _constant(values):
  return lambda key, shape: jnp.asarray(values, jnp.float32)
