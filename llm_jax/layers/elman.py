"""The Elman layer: the plain recurrent network, projected back to the residual stream.

Legend: B batch, T position, D model, H hidden, I = H of the step before.
"""

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.modules import Projection
from llm_jax.ops.gated_recurrence import elman


class Elman(nn.Module):
  """h = tanh(W x + U h_{t-1} + bias), y = out(h). The state is h, float32.

  Attributes:
    hidden_size: width of h; 0 is d_model.
    implementation: form of `ops/gated_recurrence`.

  torch.nn.RNN's two biases, which only ever act as their sum, are one here. U starts orthogonal,
  so that h keeps its length through many steps (Saxe et al. 2014, arXiv:1312.6120).

  Source: Elman 1990, doi:10.1207/s15516709cog1402_1; in formulas: torch.nn.RNN.
  """

  hidden_size: int = 0
  implementation: str = "auto"

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("elman")
    d_model = x_BTD.shape[-1]
    hidden = self.hidden_size or d_model
    inputs_BTH = Projection((hidden,), ("embed", "state"), use_bias=False, name="input")(x_BTD)
    # Not a Projection: the recurrence multiplies by it inside its scan.
    orthogonal = nn.with_logical_partitioning(nn.initializers.orthogonal(), (None, "state"))
    recurrent_IH = self.param("recurrent_kernel", orthogonal, (hidden, hidden))
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("state",))
    bias_H = self.param("bias", zeros, (hidden,))
    before = state or self.initial_state(x_BTD.shape[0], 0, 0, d_model, x_BTD.dtype)
    h_BTH, (h_BH,) = elman(
      inputs_BTH,
      recurrent_IH,
      bias_H,
      (before["h"],),
      context.starts_BT if state is None else None,
      context.real_BT,
      implementation=self.implementation,
    )
    out = Projection((d_model,), ("state", "embed"), scale=0.5 / context.num_blocks, name="out")
    return out(h_BTH), (None if state is None else {"h": h_BH})

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    return {"h": jnp.zeros((batch, self.hidden_size or d_model), jnp.float32)}
