"""RWKV-4's channel mixing: a gated feed-forward layer that also sees the token before.

Legend: B batch, T position, D model, F feed-forward.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.layers.rwkv4_time_mix import channel_parameter, mix, mixing_init
from llm_jax.modules import Projection
from llm_jax.ops.shift import token_shift


class Rwkv4ChannelMix(nn.Module):
  """y = sigmoid(receptance) * value(relu(key)^2). The state is the previous token's x.

  Attributes:
    d_ff: inner width; 0 is 4 d_model, as published.

  Receptance and value start at zero, as published.

  Source: Peng et al. 2023, arXiv:2305.13048, section 3.1; initial values: BlinkDL/RWKV-LM,
  RWKV-v4/src/model.py.
  """

  d_ff: int = 0

  no_decay = ("time_mix_k", "time_mix_r")

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("rwkv4_channel_mix")
    d_model = x_BTD.shape[-1]
    previous_BTD, shift_BD = token_shift(
      x_BTD, context.positions_BT, context.segments_BT, None if state is None else state["shift"]
    )

    def project(name, features, axis, scale):
      weight_D = channel_parameter(self, f"time_mix_{name[0]}", mixing_init(context), d_model)
      return Projection((features,), ("embed", axis), use_bias=False, scale=scale, name=name)(
        mix(x_BTD, previous_BTD, weight_D)
      )

    k_BTF = jnp.square(jax.nn.relu(project("key", self.d_ff or 4 * d_model, "mlp", 1.0)))
    r_BTD = jax.nn.sigmoid(project("receptance", d_model, None, 0.0))
    value = Projection((d_model,), ("mlp", "embed"), use_bias=False, scale=0.0, name="value")
    return r_BTD * value(k_BTF), (None if state is None else {"shift": shift_BD})

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    return {"shift": jnp.zeros((batch, d_model), dtype)}
