"""The feed-forward layer: two projections around an activation, or three when it gates.

Legend: B batch, T position, D model, F feed-forward.
"""

import flax.linen as nn

from llm_jax.modules import Projection
from llm_jax.ops.activations import activation


class Mlp(nn.Module):
  """y = out(f(in(x))), or out(f(gate(x)) * in(x)) for "swiglu" and "geglu".

  Attributes:
    d_ff: inner width; 0 is 4 d_model, or 8/3 d_model rounded up to a multiple of 8 when gated,
      which gives both kinds the same number of parameters.
    activation: relu, relu2, gelu, gelu_tanh, silu, swiglu, geglu or geglu_tanh.
    use_bias: whether the projections have biases.

  Sources: Vaswani et al. 2017, arXiv:1706.03762, eq. 2; Shazeer 2020, arXiv:2002.05202, eq. 6.
  """

  d_ff: int = 0
  activation: str = "gelu"
  use_bias: bool = True

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    d_model = x_BTD.shape[-1]
    function, gated = activation(self.activation)
    d_ff = self.d_ff or feed_forward_width(d_model, gated)
    inner = {"features": (d_ff,), "axes": ("embed", "mlp"), "use_bias": self.use_bias}
    h_BTF = Projection(**inner, name="in")(x_BTD)
    if gated:
      h_BTF = function(Projection(**inner, name="gate")(x_BTD)) * h_BTF
    else:
      h_BTF = function(h_BTF)
    y_BTD = Projection(
      (d_model,),
      axes=("mlp", "embed"),
      use_bias=self.use_bias,
      scale=context.residual_scale,
      name="out",
    )(h_BTF)
    return y_BTD, state

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    return {}


def feed_forward_width(d_model: int, gated: bool) -> int:
  """The default inner width: 4 d_model, or 8/3 d_model in multiples of 8 when gated."""
  return -(-8 * d_model // 24) * 8 if gated else 4 * d_model
