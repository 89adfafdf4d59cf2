"""What the state space layers share: the short convolution, and how step sizes begin.

Legend: B batch, T position, I channel, K taps.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.ops.shift import causal_convolution

_DT_FLOOR = 1e-4  # of every published Mamba


class ShortConvolution(nn.Module):
  """A causal depthwise convolution over each document, drawn as torch's Conv1d is.

  Attributes:
    taps: K.
    use_bias: whether each channel has a bias.
  """

  taps: int
  use_bias: bool = True

  @nn.compact
  def __call__(self, inputs, context, states=None):
    """The channels may come in several arrays: joining them first would cost a pass over all.

    Args:
      inputs: tuple of (B, T, its channels).
      context: of the layer.
      states: tuple of (B, K - 1, its channels), or None.

    Returns:
      Two tuples as long: outputs, and states after the last real token (None without a state).
    """
    init = symmetric_uniform(self.taps**-0.5)
    widths = [x_BTI.shape[-1] for x_BTI in inputs]
    kernel_KI = self.param(
      "kernel", nn.with_logical_partitioning(init, (None, "mlp")), (self.taps, sum(widths))
    )
    bias_I = None
    if self.use_bias:
      bias_I = self.param("bias", nn.with_logical_partitioning(init, ("mlp",)), (sum(widths),))
    outputs, new_states, start = [], [], 0
    for index, (x_BTI, width) in enumerate(zip(inputs, widths, strict=True)):
      part = slice(start, start + width)
      y_BTI, state = causal_convolution(
        x_BTI,
        kernel_KI[:, part],
        None if bias_I is None else bias_I[part],
        context.positions_BT,
        context.segments_BT,
        None if states is None else states[index],
      )
      outputs, new_states, start = [*outputs, y_BTI], [*new_states, state], start + width
    return tuple(outputs), tuple(new_states)


def symmetric_uniform(bound: float):
  """Initialiser: uniform in [-bound, bound]."""
  return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def log_uniform(low: float, high: float):
  """Initialiser: logarithms of values spread evenly, on a log scale, from low to high."""
  return lambda key, shape: jax.random.uniform(
    key, shape, minval=math.log(low), maxval=math.log(high)
  )


def inverse_softplus_of_steps(low: float = 1e-3, high: float = 0.1):
  """Initialiser: biases whose softplus is spread evenly, on a log scale, from low to high.

  Source: state-spaces/mamba, mamba_ssm/modules/mamba_simple.py and mamba2.py.
  """

  def init(key, shape):
    dt = jnp.maximum(jnp.exp(log_uniform(low, high)(key, shape)), _DT_FLOOR)
    return dt + jnp.log(-jnp.expm1(-dt))

  return init
