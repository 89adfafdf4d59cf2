"""The GRU layer: gated recurrent unit, projected back to the residual stream.

Legend: B batch, T position, D model, G gates, H hidden.
"""

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.layers.lstm import recurrent_init
from llm_jax.modules import Projection
from llm_jax.ops.gated_recurrence import gru


class Gru(nn.Module):
  """h = GRU(x), y = out(h). The state is h, float32.

  Attributes:
    hidden_size: width of h; 0 is d_model.
    implementation: form of `ops/gated_recurrence`.

  Gates and both biases are torch.nn.GRU's: the recurrent bias of the candidate stands under the
  reset gate, so the two cannot be one.

  Source: Cho et al. 2014, arXiv:1406.1078, eq. 5-8; reset after the product: torch.nn.GRU.
  """

  hidden_size: int = 0
  implementation: str = "auto"

  no_decay = ("recurrent_bias",)

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("gru")
    d_model = x_BTD.shape[-1]
    hidden = self.hidden_size or d_model
    gates = Projection((3, hidden), ("embed", None, "state"), name="input")
    # Not a Projection: the recurrence multiplies by it inside its scan.
    recurrent_HGH = self.param(
      "recurrent_kernel",
      nn.with_logical_partitioning(recurrent_init, (None, None, "state")),
      (hidden, 3, hidden),
    )
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, (None, "state"))
    bias_GH = self.param("recurrent_bias", zeros, (3, hidden))
    before = state or self.initial_state(x_BTD.shape[0], 0, 0, d_model, x_BTD.dtype)
    h_BTH, (h_BH,) = gru(
      gates(x_BTD),
      recurrent_HGH,
      bias_GH,
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
