"""RWKV-6's channel mixing: RWKV-4's, with weights that count from the token to the one before.

Legend: B batch, T position, D model, F feed-forward.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.layers.rwkv4_time_mix import channel_parameter, mix, mixing_init
from llm_jax.layers.rwkv6_time_mix import previous_init
from llm_jax.modules import Projection
from llm_jax.ops.shift import token_shift


class Rwkv6ChannelMix(nn.Module):
  """y = sigmoid(receptance) * value(relu(key)^2). The state is the previous token's x.

  Attributes:
    d_ff: inner width; 0 is 3.5 d_model, as published.

  Receptance and value start at zero, as published.

  Source: Peng et al. 2024, arXiv:2404.05892; initial values: BlinkDL/RWKV-LM,
  RWKV-v5/src/model.py.
  """

  d_ff: int = 0

  no_decay = ("time_maa_.*",)

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("rwkv6_channel_mix")
    d_model = x_BTD.shape[-1]
    shift = None if state is None else state["shift"]
    previous_BTD, shift = token_shift(x_BTD, context.positions_BT, context.segments_BT, shift)

    def project(name, features, axis, scale):
      init = previous_init(mixing_init(context))
      weight_D = channel_parameter(self, f"time_maa_{name[0]}", init, d_model)
      return Projection((features,), ("embed", axis), use_bias=False, scale=scale, name=name)(
        mix(previous_BTD, x_BTD, weight_D)
      )

    d_ff = self.d_ff or d_model * 7 // 2
    k_BTF = jnp.square(jax.nn.relu(project("key", d_ff, "mlp", 1.0)))
    r_BTD = jax.nn.sigmoid(project("receptance", d_model, None, 0.0))
    value = Projection((d_model,), ("mlp", "embed"), use_bias=False, scale=0.0, name="value")
    return r_BTD * value(k_BTF), (None if state is None else {"shift": shift})

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    return {"shift": jnp.zeros((batch, d_model), dtype)}
