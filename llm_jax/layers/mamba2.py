"""Mamba-2: a gated block of short convolution and state space duality, with a scalar decay a head.

Legend: B batch, T position, D model, I inner (I = H K), H heads, K head size, G groups, N state,
M = 2 G N channels of both maps, F outputs of a projection.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.errors import UserError
from llm_jax.modules import Projection
from llm_jax.ops.linear import linear
from llm_jax.ops.norm import rms_norm
from llm_jax.ops.ssd import ssd
from llm_jax.state_space import ShortConvolution, inverse_softplus_of_steps


class Mamba2(nn.Module):
  """The whole Mamba-2 block; a model of them needs no feed-forward layers.

  The state is {"conv_x": (B, d_conv - 1, I) and "conv_maps": (B, d_conv - 1, M), the last inputs
  of the convolution, "ssm": (B, H, K, N) float32}. Initial values are the published ones, but for
  the variance of the output projection.

  Attributes:
    d_state: N.
    d_conv: taps of the convolution.
    expand: inner width over d_model.
    head_dim: K; it divides the inner width.
    num_groups: G, groups of heads that share B and C, each with its own part of the norm.
    dt_limits: (lowest, highest) step size; () is any.
    use_bias: of the projections from and to the stream.
    conv_bias: of the convolution.
    norm_epsilon: of the RMS norm after the gate.
    implementation: form of `ops/ssd`.

  Source: Dao & Gu 2024, arXiv:2405.21060, section 7 and figure 6 (right); names and initial values
  of state-spaces/mamba, mamba_ssm/modules/mamba2.py.
  """

  d_state: int = 128
  d_conv: int = 4
  expand: int = 2
  head_dim: int = 64
  num_groups: int = 1
  dt_limits: tuple = ()
  use_bias: bool = False
  conv_bias: bool = True
  norm_epsilon: float = 1e-5
  implementation: str = "auto"

  no_decay = ("A_log", "D", "dt_bias")

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("mamba2")
    inner, heads = self._widths(x_BTD.shape[-1])
    widths = (inner, inner, 2 * self.num_groups * self.d_state, heads)
    z_BTI, x_BTI, maps_BTM, dt_BTH = _Split(widths, self.use_bias, name="in_proj")(x_BTD)
    convolution = ShortConvolution(self.d_conv, self.conv_bias, name="conv1d")
    conv = None if state is None else (state["conv_x"], state["conv_maps"])
    (x_BTI, maps_BTM), conv = convolution((x_BTI, maps_BTM), context, conv)
    y_BTI, ssm = self._scan(jax.nn.silu(x_BTI), dt_BTH, jax.nn.silu(maps_BTM), context, state)
    out = Projection(
      x_BTD.shape[-1:],
      axes=("mlp", "embed"),
      use_bias=self.use_bias,
      scale=0.5 / context.num_blocks,
      name="out_proj",
    )
    norm = _GroupedNorm(self.num_groups, self.norm_epsilon, name="norm")
    y_BTD = out(norm(y_BTI * jax.nn.silu(z_BTI)))
    return y_BTD, None if state is None else {"conv_x": conv[0], "conv_maps": conv[1], "ssm": ssm}

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    inner, heads = self._widths(d_model)
    maps = 2 * self.num_groups * self.d_state
    return {
      "conv_x": jnp.zeros((batch, self.d_conv - 1, inner), dtype),
      "conv_maps": jnp.zeros((batch, self.d_conv - 1, maps), dtype),
      "ssm": jnp.zeros((batch, heads, self.head_dim, self.d_state), jnp.float32),
    }

  @nn.nowrap
  def _widths(self, d_model):
    """The inner width and the number of heads."""
    inner = self.expand * d_model
    if inner % self.head_dim:
      raise UserError(
        f"mamba2's inner width {inner} (expand {self.expand} x d_model {d_model}) is not divisible "
        f"by its head_dim {self.head_dim}. Change one of them."
      )
    heads = inner // self.head_dim
    if heads % self.num_groups:
      raise UserError(
        f"mamba2 has {heads} heads (inner width {inner} / head_dim {self.head_dim}), which its "
        f"num_groups {self.num_groups} must divide."
      )
    return inner, heads

  def _scan(self, x_BTI, dt_BTH, maps_BTM, context, state):
    """The state space model and its skip, D x."""
    batch, length, heads = dt_BTH.shape
    A_log_H = self._of_heads("A_log", _log_of_uniform, heads)
    D_H = self._of_heads("D", nn.initializers.ones, heads)
    bias_H = self._of_heads("dt_bias", inverse_softplus_of_steps, heads)
    # float32: steps of 1e-3 are exponents of long products.
    dt_BTH = jax.nn.softplus(dt_BTH.astype(jnp.float32) + bias_H[None, None])
    if self.dt_limits:
      dt_BTH = jnp.clip(dt_BTH, *self.dt_limits)
    x_BTHK = x_BTI.reshape(batch, length, heads, self.head_dim)
    maps_BT2GN = maps_BTM.reshape(batch, length, 2, self.num_groups, self.d_state)
    y_BTHK, ssm = ssd(
      x_BTHK,
      jnp.where(context.real_BT[:, :, None], dt_BTH, 0),
      -jnp.exp(A_log_H.astype(jnp.float32)),
      maps_BT2GN[:, :, 0],
      maps_BT2GN[:, :, 1],
      None if state is None else state["ssm"],
      reset_BT=context.starts_BT if state is None else None,
      implementation=self.implementation,
    )
    y_BTHK = y_BTHK + x_BTHK * D_H.astype(x_BTHK.dtype)[None, None, :, None]
    return y_BTHK.reshape(x_BTI.shape), ssm

  def _of_heads(self, name, init, heads):
    return self.param(name, nn.with_logical_partitioning(init, ("heads",)), (heads,))


def _log_of_uniform(key, shape):
  """Logarithms of values uniform in [1, 16]."""
  return jnp.log(jax.random.uniform(key, shape, minval=1.0, maxval=16.0))


class _Split(nn.Module):
  """One affine map, as published, whose outputs of the given widths are computed apart: cutting
  one wide output costs passes over all tokens, cutting the kernel does not."""

  widths: tuple[int, ...]
  use_bias: bool

  @nn.compact
  def __call__(self, x_BTD):
    # torch's Linear draws from a uniform distribution of variance 1 / (3 fan_in).
    init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    total = sum(self.widths)
    kernel_DF = self.param(
      "kernel",
      nn.with_logical_partitioning(init, ("embed", "mlp")),
      (x_BTD.shape[-1], total),
    )
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("mlp",))
    bias_F = self.param("bias", zeros, (total,)) if self.use_bias else None
    outputs, start = [], 0
    for width in self.widths:
      part = slice(start, start + width)
      y_BTF = linear(x_BTD, kernel_DF[:, part])
      if bias_F is not None:
        y_BTF = y_BTF + bias_F.astype(y_BTF.dtype)[None, None, part]
      outputs, start = [*outputs, y_BTF], start + width
    return outputs


class _GroupedNorm(nn.Module):
  """An RMS norm over each group's channels."""

  groups: int
  epsilon: float

  @nn.compact
  def __call__(self, x_BTI):
    ones = nn.with_logical_partitioning(nn.initializers.ones, ("mlp",))
    scale_I = self.param("scale", ones, x_BTI.shape[-1:], jnp.float32)
    grouped = (self.groups, -1)
    x_BTGF = x_BTI.reshape(*x_BTI.shape[:2], *grouped)
    return rms_norm(x_BTGF, scale_I.reshape(grouped), self.epsilon).reshape(x_BTI.shape)
