"""What the state space layers share: the short convolution, and how step sizes begin.

Legend: B batch, T position, I channel, K taps.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.ops.shift import causal_convolution


class ShortConvolution(nn.Module):
  """A causal depthwise convolution over each document.

  Attributes:
    taps: K.
    use_bias: whether each channel has a bias.
    init: initialiser of the kernel, and biases start at zero; None: both as in torch's Conv1d.
  """

  taps: int
  use_bias: bool = True
  init: Callable | None = None

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
    uniform = symmetric_uniform(self.taps**-0.5)
    init = nn.with_logical_partitioning(self.init or uniform, (None, "mlp"))
    widths = [x_BTI.shape[-1] for x_BTI in inputs]
    kernel_KI, bias_I = self.param("kernel", init, (self.taps, sum(widths))), None
    if self.use_bias:
      init = nn.initializers.zeros if self.init else uniform
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


def log_steps(key, shape):
  """Initialiser: logarithms of step sizes spread evenly, on a log scale, from 1e-3 to 0.1, as in
  every published S4D, S5 and Mamba."""
  low, high = math.log(1e-3), math.log(0.1)
  return jax.random.uniform(key, shape, minval=low, maxval=high)


def inverse_softplus_of_steps(key, shape):
  """Initialiser: biases whose softplus are such step sizes.

  Source: state-spaces/mamba, mamba_ssm/modules/mamba_simple.py and mamba2.py.
  """
  dt = jnp.exp(log_steps(key, shape))
  return dt + jnp.log(-jnp.expm1(-dt))
