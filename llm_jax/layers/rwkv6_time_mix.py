"""RWKV-6's time mixing: as RWKV-5's, but what a token mixes and forgets depends on the token.

Legend: B batch, T position, D model, H heads, K head size, R rank, M the five mixtures.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.layers.rwkv4_time_mix import channel_parameter, mixing_init
from llm_jax.layers.rwkv5_time_mix import (
  HeadNorm,
  decay_init,
  head_parameter,
  heads,
  matrix_state,
  merge,
  mix_heads,
)
from llm_jax.ops.linear import linear
from llm_jax.ops.shift import token_shift

_MIXTURES = "wkvrg"  # decay, key, value, receptance, gate: their order in time_maa_w1 and _w2


class Rwkv6TimeMix(nn.Module):
  """y = output(silu(gate) * norm(wkv(r, w, k, v))), with mixtures and decays by low-rank maps.

  The state is the previous token's x ("shift", in the given dtype), and S of `ops/wkv6` ("wkv").

  Attributes:
    num_heads: heads of size d_model / num_heads; published models have heads of 64.
    mix_rank, decay_rank: of the maps from a token to its mixtures and decays; published models
      have 32 and 64, from width 4096 on twice that.
    implementation: form of `ops/wkv6`.

  Initialisation is the published one: decays, bonuses and mixing weights depend on the channel and
  the depth; keys and gates start small, output and the low-rank maps at zero.

  Source: Peng et al. 2024, arXiv:2404.05892; initial values: BlinkDL/RWKV-LM,
  RWKV-v5/src/model.py.
  """

  num_heads: int = 4
  mix_rank: int = 32
  decay_rank: int = 64
  implementation: str = "auto"

  no_decay = ("time_.*",)

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("rwkv6_time_mix")
    shift = None if state is None else state["shift"]
    previous_BTD, shift = token_shift(x_BTD, context.positions_BT, context.segments_BT, shift)
    mixed = self._mixtures(x_BTD, previous_BTD - x_BTD, context)
    r_BTHK = heads("receptance", self.num_heads, 1.0)(mixed["r"])
    k_BTHK = heads("key", self.num_heads, 0.01)(mixed["k"])
    v_BTHK = heads("value", self.num_heads, 1.0)(mixed["v"])
    g_BTHK = heads("gate", self.num_heads, 0.01)(mixed["g"])
    log_decay_BTHK = self._log_decay(mixed["w"], k_BTHK.shape[2:], context)
    y_BTHK, state = mix_heads(self, context, r_BTHK, log_decay_BTHK, k_BTHK, v_BTHK, state)
    y_BTHK = HeadNorm(name="ln_x")(y_BTHK, context) * jax.nn.silu(g_BTHK)
    return merge(y_BTHK), (None if state is None else {"shift": shift, "wkv": state})

  def _mixtures(self, x_BTD, back_BTD, context):
    """x moved towards the token before, channel by channel, five times differently."""
    d_model, count = x_BTD.shape[-1], len(_MIXTURES)

    def towards(name, power=1.0, lift=0.0):
      init = previous_init(mixing_init(context, power, lift))
      weight_D = channel_parameter(self, f"time_maa_{name}", init, d_model)
      return weight_D.astype(x_BTD.dtype)[None, None]

    shape_DMR, shape_MRD = (d_model, count, self.mix_rank), (count, self.mix_rank, d_model)
    down_DMR = low_rank(
      self, "time_maa_w1", nn.initializers.zeros, shape_DMR, ("embed", None, None)
    )
    up_MRD = low_rank(self, "time_maa_w2", _small, shape_MRD, (None, None, "embed"))
    low_BTMR = jnp.tanh(linear(x_BTD + back_BTD * towards("x"), down_DMR))
    options = {"v": {"lift": 0.3}, "r": {"power": 0.5}, "g": {"power": 0.5}}
    return {
      name: x_BTD
      + back_BTD * (towards(name, **options.get(name, {})) + linear(low_BTMR[:, :, i], up_MRD[i]))
      for i, name in enumerate(_MIXTURES)
    }

  def _log_decay(self, x_BTD, shape_HK, context):
    """-exp of a channel's own number plus the token's."""
    down = ((x_BTD.shape[-1], self.decay_rank), ("embed", None))
    down_DR = low_rank(self, "time_decay_w1", nn.initializers.zeros, *down)
    up_RHK = low_rank(
      self, "time_decay_w2", _small, (self.decay_rank, *shape_HK), (None, "heads", None)
    )
    decay_HK = head_parameter(self, "time_decay", decay_init(context), shape_HK)
    moved_BTHK = linear(jnp.tanh(linear(x_BTD, down_DR)), up_RHK)
    return -jnp.exp(decay_HK[None, None] + moved_BTHK.astype(jnp.float32))

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    return matrix_state(self.num_heads, batch, d_model, dtype)


def low_rank(module: nn.Module, name: str, init, shape, axes):
  """One factor of a low-rank map."""
  return module.param(name, nn.with_logical_partitioning(init, axes), tuple(shape), jnp.float32)


def previous_init(own):
  """The initial share of the token before, where `own` is that of the token itself."""
  return lambda key, shape, dtype=jnp.float32: 1 - own(key, shape, dtype)


def _small(key, shape, dtype=jnp.float32):
  return jax.random.uniform(key, shape, dtype, -0.01, 0.01)
