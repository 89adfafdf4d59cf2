"""RWKV-4's time mixing: a gated, exponentially decaying average of values.

Legend: B batch, T position, D model.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.modules import Projection
from llm_jax.ops.shift import token_shift
from llm_jax.ops.wkv4 import initial_state, wkv4


class Rwkv4TimeMix(nn.Module):
  """y = output(sigmoid(r) * wkv(k, v)); r, k, v see the token mixed with the one before it.

  The state is the previous token's x ("shift", in the given dtype), and a, b, p of `ops/wkv4`.

  Attributes:
    implementation: form of `ops/wkv4`.

  Initialisation is the published one: decays and mixing weights depend on the channel and the
  depth; key, receptance and output start at zero.

  Source: Peng et al. 2023, arXiv:2305.13048, eq. 11-18; initial values: BlinkDL/RWKV-LM,
  RWKV-v4/src/model.py.
  """

  implementation: str = "auto"

  no_decay = ("time_mix_k", "time_mix_v", "time_mix_r", "time_decay", "time_first")

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("rwkv4_time_mix")
    batch, _, d_model = x_BTD.shape
    previous_BTD, shift_BD = token_shift(
      x_BTD, context.positions_BT, context.segments_BT, None if state is None else state["shift"]
    )

    def project(name, scale, init):
      weight_D = channel_parameter(self, f"time_mix_{name[0]}", init, d_model)
      return Projection((d_model,), ("embed", "heads"), use_bias=False, scale=scale, name=name)(
        mix(x_BTD, previous_BTD, weight_D)
      )

    k_BTD = project("key", 0.0, mixing_init(context))
    v_BTD = project("value", 1.0, mixing_init(context, lift=0.3))
    r_BTD = project("receptance", 0.0, mixing_init(context, power=0.5))
    decay_D = channel_parameter(self, "time_decay", _decay_init(context), d_model, "heads")
    bonus_D = channel_parameter(self, "time_first", _bonus_init, d_model, "heads")
    y_BTD, (a, b, p) = wkv4(
      -jnp.exp(decay_D.astype(jnp.float32)),
      bonus_D,
      k_BTD,
      v_BTD,
      initial_state(batch, d_model) if state is None else (state["a"], state["b"], state["p"]),
      context.starts_BT if state is None else None,
      context.real_BT,
      implementation=self.implementation,
    )
    out = Projection((d_model,), ("heads", "embed"), use_bias=False, scale=0.0, name="output")
    state = None if state is None else {"shift": shift_BD, "a": a, "b": b, "p": p}
    return out(jax.nn.sigmoid(r_BTD) * y_BTD), state

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    a, b, p = initial_state(batch, d_model)
    return {"shift": jnp.zeros((batch, d_model), dtype), "a": a, "b": b, "p": p}


def channel_parameter(module: nn.Module, name: str, init, channels: int, axis: str = "embed"):
  """A float32 parameter with one number a channel."""
  return module.param(name, nn.with_logical_partitioning(init, (axis,)), (channels,), jnp.float32)


def mix(x_BTD: jax.Array, previous_BTD: jax.Array, weight_D: jax.Array) -> jax.Array:
  """weight * x + (1 - weight) * previous."""
  return previous_BTD + (x_BTD - previous_BTD) * weight_D.astype(x_BTD.dtype)[None, None]


def mixing_init(context, power: float = 1.0, lift: float = 0.0):
  """Initialiser: (i / D)^(power (1 - depth / blocks)) + lift * depth / (blocks - 1).

  Late channels and deep layers look at the token itself, the others at the one before.
  """

  def init(key, shape, dtype=jnp.float32):
    channel_D = jnp.arange(shape[0], dtype=dtype) / shape[0]
    depth = jnp.asarray(context.depth, dtype)
    return channel_D ** (power * (1 - depth / context.num_blocks)) + lift * relative_depth(context)

  return init


def relative_depth(context):
  """0 in the first block, 1 in the last."""
  return jnp.asarray(context.depth, jnp.float32) / max(context.num_blocks - 1, 1)


def _decay_init(context):
  """From -5 (remembers some 150 tokens) to 3 (forgets at once) over the channels; deeper blocks
  hold more channels that remember."""

  def init(key, shape, dtype=jnp.float32):
    channel_D = jnp.arange(shape[0], dtype=dtype) / max(shape[0] - 1, 1)
    return -5 + 8 * channel_D ** (0.7 + 1.3 * relative_depth(context))

  return init


def _bonus_init(key, shape, dtype=jnp.float32):
  """log 0.3, with a zigzag of halves so that neighbouring channels differ."""
  zigzag_D = (jnp.arange(shape[0]) + 1) % 3 - 1
  return jnp.log(0.3) + 0.5 * zigzag_D.astype(dtype)
