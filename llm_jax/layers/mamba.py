"""Mamba: a gated block of short convolution and selective state space model.

Legend: B batch, T position, D model, I inner, N state, R rank of the step sizes, K taps.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.modules import Norm, Projection
from llm_jax.ops.linear import linear
from llm_jax.ops.selective_scan import selective_scan
from llm_jax.state_space import ShortConvolution, inverse_softplus_of_steps, symmetric_uniform


class Mamba(nn.Module):
  """The whole Mamba block; a model of them needs no feed-forward layers.

  The state is {"conv": (B, d_conv - 1, I), the last inputs of the convolution, "ssm": (B, N, I)
  float32}. Initial values are the published ones, but for the variance of the output projection.

  Attributes:
    d_state: N, states of each inner channel.
    d_conv: taps of the convolution.
    expand: inner width over d_model.
    dt_rank: R; 0 is d_model / 16, rounded up.
    use_bias: of the projections from and to the stream.
    conv_bias: of the convolution.
    norm_maps: RMS norms of the low-rank step sizes, B and C (Jamba).
    norm_epsilon: of those norms.
    implementation: form of `ops/selective_scan`.

  Source: Gu & Dao 2023, arXiv:2312.00752, section 3.4; names and initial values of
  state-spaces/mamba, mamba_ssm/modules/mamba_simple.py. The norms: Lieber et al. 2024,
  arXiv:2403.19887, section 6.
  """

  d_state: int = 16
  d_conv: int = 4
  expand: int = 2
  dt_rank: int = 0
  use_bias: bool = False
  conv_bias: bool = True
  norm_maps: bool = False
  norm_epsilon: float = 1e-6
  implementation: str = "auto"

  no_decay = ("A_log", "D")

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("mamba")
    d_model = x_BTD.shape[-1]
    inner = self.expand * d_model
    rank = self.dt_rank or -(-d_model // 16)
    # torch's Linear draws from a uniform distribution of variance 1 / (3 fan_in).
    xz_BT2I = Projection(
      (2, inner), axes=("embed", None, "mlp"), use_bias=self.use_bias, scale=1 / 3, name="in_proj"
    )(x_BTD)
    x_BTI, z_BTI = xz_BT2I[:, :, 0], xz_BT2I[:, :, 1]
    conv = None if state is None else (state["conv"],)
    convolution = ShortConvolution(self.d_conv, self.conv_bias, name="conv1d")
    (x_BTI,), (conv,) = convolution((x_BTI,), context, conv)
    x_BTI = jax.nn.silu(x_BTI)
    features = (rank + 2 * self.d_state,)
    maps_BTF = Projection(features, axes=("mlp", None), use_bias=False, scale=1 / 3, name="x_proj")(
      x_BTI
    )
    dt_BTR, B_BTN, C_BTN = jnp.split(maps_BTF, (rank, rank + self.d_state), axis=-1)
    if self.norm_maps:
      norms = [Norm("rmsnorm", self.norm_epsilon, None, name=f"{m}_norm") for m in ("dt", "B", "C")]
      dt_BTR, B_BTN, C_BTN = (f(m) for f, m in zip(norms, (dt_BTR, B_BTN, C_BTN), strict=True))
    dt_BTI = _StepSize(inner, name="dt_proj")(dt_BTR)
    y_BTI, ssm = self._scan(x_BTI, dt_BTI, B_BTN, C_BTN, context, state)
    y_BTD = Projection(
      (d_model,),
      axes=("mlp", "embed"),
      use_bias=self.use_bias,
      scale=0.5 / context.num_blocks,
      name="out_proj",
    )(y_BTI * jax.nn.silu(z_BTI))
    return y_BTD, None if state is None else {"conv": conv, "ssm": ssm}

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    inner = self.expand * d_model
    return {
      "conv": jnp.zeros((batch, self.d_conv - 1, inner), dtype),
      "ssm": jnp.zeros((batch, self.d_state, inner), jnp.float32),
    }

  def _scan(self, x_BTI, dt_BTI, B_BTN, C_BTN, context, state):
    """The state space model and its skip, D x."""
    inner = x_BTI.shape[-1]
    a_init = nn.with_logical_partitioning(_log_of_counting, ("mlp", "state"))
    A_log_IN = self.param("A_log", a_init, (inner, self.d_state))
    ones = nn.with_logical_partitioning(nn.initializers.ones, ("mlp",))
    D_I = self.param("D", ones, (inner,))
    y_BTI, ssm = selective_scan(
      x_BTI,
      jnp.where(context.real_BT[:, :, None], dt_BTI, 0),
      -jnp.exp(A_log_IN.astype(jnp.float32)).T,
      B_BTN,
      C_BTN,
      None if state is None else state["ssm"],
      reset_BT=context.starts_BT if state is None else None,
      implementation=self.implementation,
    )
    return y_BTI + x_BTI * D_I.astype(x_BTI.dtype)[None, None], ssm


def _log_of_counting(key, shape):
  """log(1), log(2), ... log(N) in each row: the real part of S4D's diagonal."""
  return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[1] + 1, dtype=jnp.float32)), shape)


class _StepSize(nn.Module):
  """softplus of an affine map of the low-rank step sizes, in float32."""

  inner: int

  @nn.compact
  def __call__(self, dt_BTR):
    rank = dt_BTR.shape[-1]
    kernel_init = nn.with_logical_partitioning(symmetric_uniform(rank**-0.5), (None, "mlp"))
    kernel_RI = self.param("kernel", kernel_init, (rank, self.inner))
    bias_init = nn.with_logical_partitioning(inverse_softplus_of_steps, ("mlp",))
    bias_I = self.param("bias", bias_init, (self.inner,))
    # float32: steps of 1e-3 are exponents of long products.
    return jax.nn.softplus(linear(dt_BTR, kernel_RI).astype(jnp.float32) + bias_I[None, None])
