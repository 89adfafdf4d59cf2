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

_SLOWEST = -1e-4  # largest real part of an eigenvalue: longer documents than trained on stay stable


class S5(nn.Module):
  """y = 2 Re(C h) + D x with dh/dt = Lambda h + B x held constant over each step, then GELU, gate.

  The state is {"ssm_re", "ssm_im"}, each (B, P) float32.

  Attributes:
    d_state: N, states; conjugate pairs, so that P = N / 2 complex numbers are kept.
    blocks: how many independent copies of the initial diagonal; N is a multiple of twice as many.
    dt_min, dt_max: the step sizes are drawn log-uniformly from this range.
    gate: "half" is g * sigmoid(W g), "full" is (V g) * sigmoid(W g), where g = GELU(y).
    implementation: form of `ops/linear_recurrence`.

  Source: Smith, Warrington & Linderman 2023, arXiv:2208.04933, section 3 and appendix B; initial
  values of lindermanlab/S5, s5/ssm.py and ssm_init.py.
  """

  d_state: int = 64
  blocks: int = 2
  dt_min: float = 1e-3
  dt_max: float = 0.1
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
    D_D = self._vector("D", nn.initializers.normal(1.0), x_BTD.shape[-1:], "embed")
    y_BTD = y_BTD + x_BTD * D_D.astype(x_BTD.dtype)[None, None]
    if state is not None:
      state = {"ssm_re": last_BP.real, "ssm_im": last_BP.imag}
    return self._gated(y_BTD, context), state

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    zeros_BP = jnp.zeros((batch, self.d_state // 2), jnp.float32)
    return {"ssm_re": zeros_BP, "ssm_im": zeros_BP}

  def _vector(self, name, init, shape, axis):
    return self.param(name, nn.with_logical_partitioning(init, (axis,)), shape)

  def _system(self, d_model):
    """The discretised diagonal, input and output maps, in complex64."""
    eigenvalues_P, basis_NP = self._hippo()
    shape_P = eigenvalues_P.shape
    re_P = self._vector("Lambda_re", _constant(eigenvalues_P.real), shape_P, "state")
    im_P = self._vector("Lambda_im", _constant(eigenvalues_P.imag), shape_P, "state")
    log_step_P = self._vector("log_step", self._log_steps, shape_P, "state")
    # The published draws: a real B and a complex C of variance 1 / N, seen from the eigenbasis.
    std = self.d_state**-0.5
    B_DP = self._complex(
      "B",
      ("embed", "state"),
      lambda key: std * jax.random.normal(key, (d_model, self.d_state)) @ basis_NP.conj(),
      (d_model, *shape_P),
    )
    C_PD = self._complex(
      "C",
      ("state", "embed"),
      lambda key: std * basis_NP.T @ _complex_normal(key, (self.d_state, d_model)),
      (*shape_P, d_model),
    )
    lambda_P = jax.lax.complex(jnp.minimum(re_P, _SLOWEST), im_P)
    exponent_P = lambda_P * jnp.exp(log_step_P)
    # expm1: steps are so small that exp(z) - 1 would keep three digits.
    hold_P = jnp.expm1(exponent_P) / lambda_P
    return jnp.exp(exponent_P), B_DP * hold_P[None], C_PD

  def _complex(self, name, axes, draw, shape):
    """A complex parameter kept as `name`_re and `name`_im, both made from one draw."""
    # Linen traces the draw again for its shape at every call, with whatever key.
    key = self.make_rng("params") if self.is_initializing() else jax.random.key(0)
    part = lambda f: nn.with_logical_partitioning(lambda _, shape: f(draw(key)), axes)
    re = self.param(f"{name}_re", part(jnp.real), shape)
    im = self.param(f"{name}_im", part(jnp.imag), shape)
    return jax.lax.complex(re, im)

  def _hippo(self):
    """Eigenvalues (P,) and eigenvectors (N, P) of HiPPO-LegS without its low-rank part.

    That matrix is normal, -1/2 on its diagonal and skew-symmetric beside it, so its eigenvalues
    are -1/2 + i w in conjugate pairs, of which one each is kept. Appendix B.1 of the paper.
    """
    if self.d_state < 1 or self.blocks < 1 or self.d_state % (2 * self.blocks):
      raise UserError(
        f"s5 keeps conjugate pairs in equal blocks: d_state must be a multiple of 2 * blocks = "
        f"{2 * self.blocks}, found d_state = {self.d_state}. Change one of the two."
      )
    size = self.d_state // self.blocks
    root = np.sqrt(2 * np.arange(size) + 1)
    skew = 0.5 * np.triu(root[:, None] * root[None, :], 1)
    skew = skew - skew.T
    w, basis = np.linalg.eigh(-1j * skew)
    eigenvalues = -0.5 + 1j * w[: size // 2]
    basis = np.kron(np.eye(self.blocks), basis[:, : size // 2])
    return np.tile(eigenvalues, self.blocks).astype(np.complex64), basis.astype(np.complex64)

  def _log_steps(self, key, shape):
    low, high = math.log(self.dt_min), math.log(self.dt_max)
    return jax.random.uniform(key, shape, minval=low, maxval=high)

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


def _complex_normal(key, shape):
  """Real and imaginary parts each of variance 1."""
  return jax.lax.complex(*jax.random.normal(key, (2, *shape)))
