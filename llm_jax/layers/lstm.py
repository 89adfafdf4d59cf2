"""The LSTM layer: long short-term memory, projected back to the residual stream.

Legend: B batch, T position, D model, G gates, H hidden.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.modules import Projection
from llm_jax.ops.gated_recurrence import lstm


class Lstm(nn.Module):
  """h = LSTM(x), y = out(h). The state is h and c, float32.

  Attributes:
    hidden_size: width of h and c; 0 is d_model.
    implementation: form of `ops/gated_recurrence`.

  Gates stand in torch.nn.LSTM's order; its two biases, which only ever act as their sum, are one
  here. The forget gate's starts at 1, so that memory lasts from the first step.

  Sources: Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; Gers et al. 2000,
  doi:10.1162/089976600300015015; forget bias: Jozefowicz et al. 2015, ICML.
  """

  hidden_size: int = 0
  implementation: str = "auto"

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("lstm")
    d_model = x_BTD.shape[-1]
    hidden = self.hidden_size or d_model
    gates = Projection((4, hidden), ("embed", None, "state"), use_bias=False, name="input")
    # Not a Projection: the recurrence multiplies by it inside its scan.
    recurrent_HGH = self.param(
      "recurrent_kernel",
      nn.with_logical_partitioning(recurrent_init, (None, None, "state")),
      (hidden, 4, hidden),
    )
    bias_GH = self.param(
      "bias", nn.with_logical_partitioning(_forget_bias, (None, "state")), (4, hidden)
    )
    before = state or self.initial_state(x_BTD.shape[0], 0, 0, d_model, x_BTD.dtype)
    h_BTH, (h_BH, c_BH) = lstm(
      gates(x_BTD),
      recurrent_HGH,
      bias_GH,
      (before["h"], before["c"]),
      context.starts_BT if state is None else None,
      context.real_BT,
      implementation=self.implementation,
    )
    out = Projection((d_model,), ("state", "embed"), scale=0.5 / context.num_blocks, name="out")
    return out(h_BTH), (None if state is None else {"h": h_BH, "c": c_BH})

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    zeros_BH = jnp.zeros((batch, self.hidden_size or d_model), jnp.float32)
    return {"h": zeros_BH, "c": zeros_BH}


def recurrent_init(key, shape, dtype=jnp.float32):
  """An orthogonal matrix for each gate, (H, G, H): h keeps its length through many steps.

  Source: Saxe et al. 2014, arXiv:1312.6120.
  """
  hidden, gates, _ = shape
  draw = lambda key: jax.nn.initializers.orthogonal()(key, (hidden, hidden), dtype)
  return jnp.stack([draw(k) for k in jax.random.split(key, gates)], axis=1)


def _forget_bias(key, shape, dtype=jnp.float32):
  return jnp.zeros(shape, dtype).at[1].set(1)
