"""RWKV-7's channel mixing: an ungated feed-forward layer that also sees the token before.

Legend: B batch, T position, D model, F feed-forward.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.layers.rwkv4_time_mix import channel_parameter, mix
from llm_jax.modules import Projection
from llm_jax.ops.shift import token_shift


class Rwkv7ChannelMix(nn.Module):
  """y = value(relu(key)^2). The state is the previous token's x.

  Attributes:
    d_ff: inner width; 0 is 4 d_model, as published.

  Value starts at zero, as published.

  Source: Peng et al. 2025, arXiv:2503.14456; initial values: BlinkDL/RWKV-LM,
  RWKV-v7/train_temp/src/model.py.
  """

  d_ff: int = 0

  no_decay = ("x_k",)

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("rwkv7_channel_mix")
    d_model = x_BTD.shape[-1]
    shift = None if state is None else state["shift"]
    previous_BTD, shift = token_shift(x_BTD, context.positions_BT, context.segments_BT, shift)

    def init(key, shape, dtype=jnp.float32):
      channel_D = jnp.arange(shape[0], dtype=dtype) / shape[0]
      return 1 - channel_D ** ((1 - jnp.asarray(context.depth, dtype) / context.num_blocks) ** 4)

    weight_D = channel_parameter(self, "x_k", init, d_model)
    features = (self.d_ff or 4 * d_model,)
    key = Projection(features, ("embed", "mlp"), use_bias=False, scale=1 / 12, name="key")
    value = Projection((d_model,), ("mlp", "embed"), use_bias=False, scale=0.0, name="value")
    k_BTF = jnp.square(jax.nn.relu(key(mix(previous_BTD, x_BTD, weight_D))))
    return value(k_BTF), (None if state is None else {"shift": shift})

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    return {"shift": jnp.zeros((batch, d_model), dtype)}
