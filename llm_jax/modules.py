"""The two parameterised pieces that layers and models share: a projection and a norm.

Legend: D model width.
"""

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.errors import unknown
from llm_jax.ops.linear import linear
from llm_jax.ops.norm import layer_norm, rms_norm

NORMS = ("layernorm", "rmsnorm", "rmsnorm_plus_one")


class Projection(nn.Module):
  """An affine map of the last `inputs` axes, through `ops/linear`.

  Attributes:
    features: output shape, such as (heads, head size).
    axes: logical axis of each kernel dimension, inputs first.
    inputs: how many trailing axes of x are contracted.
    use_bias: whether a bias of the output shape is added.
    scale: variance of the output over that of the input at initialisation; what leads back to
      the residual stream is divided by the number of blocks.
    dtype: of the result; None: the input's.
  """

  features: tuple[int, ...]
  axes: tuple[str | None, ...]
  inputs: int = 1
  use_bias: bool = True
  scale: float = 1.0
  dtype: str | None = None

  @nn.compact
  def __call__(self, x):
    shape = x.shape[x.ndim - self.inputs :] + self.features
    init = nn.initializers.variance_scaling(
      self.scale,
      "fan_in",
      "truncated_normal",
      in_axis=tuple(range(self.inputs)),
      out_axis=tuple(range(self.inputs, len(shape))),
    )
    kernel = self.param("kernel", nn.with_logical_partitioning(init, self.axes), shape)
    y = linear(x, kernel, self.inputs, self.dtype)
    if self.use_bias:
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, self.axes[self.inputs :])
      bias = self.param("bias", zeros, self.features)
      y = y + bias.astype(y.dtype).reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
    return y


def query_variance(query_scale: float, head_dim: int) -> float:
  """Variance of queries at initialisation at which scores begin with variance one, as they do by
  themselves where the scale is 1 / sqrt(head_dim), for which 0 stands."""
  return 1.0 / (query_scale**2 * head_dim) if query_scale else 1.0


def heads_to_stream(y_BTHK, d_model: int, context, use_bias: bool):
  """The last projection of an attention layer, "out": its heads, (B, T, H, K), to (B, T, D)."""
  out = Projection(
    (d_model,),
    axes=("heads", None, "embed"),
    inputs=2,
    use_bias=use_bias,
    scale=context.residual_scale,
    name="out",
  )
  return out(y_BTHK)


class Norm(nn.Module):
  """A norm chosen by name: "layernorm" (scale and bias), "rmsnorm" (scale), or "rmsnorm_plus_one",
  whose scale is stored minus one, so that weight decay pulls it to one."""

  kind: str = "layernorm"
  epsilon: float = 1e-5
  axis: str | None = "embed"

  @nn.compact
  def __call__(self, x):
    axes, shape = (self.axis,), x.shape[-1:]
    ones = nn.with_logical_partitioning(nn.initializers.ones, axes)
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, axes)
    if self.kind not in NORMS:
      raise unknown("norm", self.kind, NORMS)
    if self.kind == "rmsnorm_plus_one":
      scale = self.param("scale", zeros, shape, jnp.float32)
      # float32 however it is stored: near 1 bfloat16 is coarser than near 0.
      return rms_norm(x, 1 + scale.astype(jnp.float32), self.epsilon)
    scale = self.param("scale", ones, shape, jnp.float32)
    if self.kind == "rmsnorm":
      return rms_norm(x, scale, self.epsilon)
    return layer_norm(x, scale, self.param("bias", zeros, shape, jnp.float32), self.epsilon)
