"""RWKV-5's time mixing: heads with a matrix for a state, each channel decaying at its own rate.

Legend: B batch, T position, D model, H heads, K head size.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.layers.rwkv4_time_mix import channel_parameter, mix, mixing_init, relative_depth
from llm_jax.modules import Projection
from llm_jax.ops.norm import layer_norm
from llm_jax.ops.shift import token_shift
from llm_jax.ops.wkv6 import wkv6

NORM_EPSILON = 64e-5  # of the norm of each head's output, in every published model since RWKV-5


class Rwkv5TimeMix(nn.Module):
  """y = output(silu(gate) * norm(wkv(r, k, v))), a norm for each head (version 5.2, "Eagle").

  The state is the previous token's x ("shift", in the given dtype), and S of `ops/wkv6` ("wkv").

  Attributes:
    num_heads: heads of size d_model / num_heads; published models have heads of 64.
    implementation: form of `ops/wkv6`.

  Initialisation is the published one: decays, bonuses and mixing weights depend on the channel and
  the depth; keys and gates start small, output at zero.

  Source: Peng et al. 2024, arXiv:2404.05892; initial values: BlinkDL/RWKV-LM,
  RWKV-v5/src/model.py.
  """

  num_heads: int = 4
  implementation: str = "auto"

  no_decay = ("time_.*",)

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("rwkv5_time_mix")
    shift = None if state is None else state["shift"]
    previous_BTD, shift = token_shift(x_BTD, context.positions_BT, context.segments_BT, shift)

    def project(name, scale, init):
      weight_D = channel_parameter(self, f"time_mix_{name[0]}", init, x_BTD.shape[-1])
      return heads(name, self.num_heads, scale)(mix(x_BTD, previous_BTD, weight_D))

    r_BTHK = project("receptance", 1.0, mixing_init(context, power=0.5))
    k_BTHK = project("key", 0.01, mixing_init(context))
    v_BTHK = project("value", 1.0, mixing_init(context, lift=0.3))
    g_BTHK = project("gate", 0.01, mixing_init(context, power=0.5))
    decay_HK = head_parameter(self, "time_decay", decay_init(context), k_BTHK.shape[2:])
    log_decay_HK = -jnp.exp(decay_HK.astype(jnp.float32))
    y_BTHK, state = mix_heads(self, context, r_BTHK, log_decay_HK, k_BTHK, v_BTHK, state)
    y_BTHK = HeadNorm(name="ln_x")(y_BTHK, context) * jax.nn.silu(g_BTHK)
    return merge(y_BTHK), (None if state is None else {"shift": shift, "wkv": state})

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    return matrix_state(self.num_heads, batch, d_model, dtype)


def heads(name: str, num_heads: int, scale: float):
  """A projection of the stream to heads; `scale` is its initial variance over the input's."""

  def project(x_BTD):
    features = (num_heads, x_BTD.shape[-1] // num_heads)
    axes = ("embed", "heads", None)
    return Projection(features, axes, use_bias=False, scale=scale, name=name)(x_BTD)

  return project


def merge(y_BTHK: jax.Array) -> jax.Array:
  """The projection "output" of all heads to the stream, zero at first."""
  features, axes = (y_BTHK.shape[2] * y_BTHK.shape[3],), ("heads", None, "embed")
  return Projection(features, axes, inputs=2, use_bias=False, scale=0.0, name="output")(y_BTHK)


def matrix_state(num_heads: int, batch: int, d_model: int, dtype):
  """Nothing seen: zeros for the token before, and for the matrix of each head."""
  size = d_model // num_heads
  wkv_BHKK = jnp.zeros((batch, num_heads, size, size), jnp.float32)
  return {"shift": jnp.zeros((batch, d_model), dtype), "wkv": wkv_BHKK}


def mix_heads(module, context, r_BTHK, log_decay, k_BTHK, v_BTHK, state):
  """`ops/wkv6` with the layer's bonus; log decays of shape (H, K) or (B, T, H, K)."""
  bonus_HK = head_parameter(module, "time_faaaa", _bonus_init(context), k_BTHK.shape[2:])
  d_model = k_BTHK.shape[2] * k_BTHK.shape[3]
  before = matrix_state(k_BTHK.shape[2], k_BTHK.shape[0], d_model, k_BTHK.dtype)
  y_BTHK, after_BHKK = wkv6(
    r_BTHK,
    jnp.broadcast_to(log_decay, k_BTHK.shape),
    k_BTHK,
    v_BTHK,
    bonus_HK,
    (before if state is None else state)["wkv"],
    context.starts_BT if state is None else None,
    context.real_BT,
    implementation=module.implementation,
  )
  return y_BTHK, (None if state is None else after_BHKK)


class HeadNorm(nn.Module):
  """A layer norm of each head by itself; deeper layers begin louder."""

  @nn.compact
  def __call__(self, y_BTHK, context):
    share = (1 + jnp.asarray(context.depth, jnp.float32)) / context.num_blocks
    louder = lambda key, shape, dtype=jnp.float32: jnp.full(shape, share**0.7, dtype)
    scale_HK = head_parameter(self, "scale", louder, y_BTHK.shape[2:])
    bias_HK = head_parameter(self, "bias", nn.initializers.zeros, y_BTHK.shape[2:])
    return layer_norm(y_BTHK, scale_HK, bias_HK, NORM_EPSILON)


def head_parameter(module: nn.Module, name: str, init, shape):
  """A float32 parameter with one number for each channel (H, K) of the heads."""
  boxed = nn.with_logical_partitioning(init, ("heads", None))
  return module.param(name, boxed, tuple(shape), jnp.float32)


def flat(shape):
  """Index of each channel over all heads from 0 to 1, for initialisers."""
  size = shape[0] * shape[1]
  return (jnp.arange(size, dtype=jnp.float32) / max(size - 1, 1)).reshape(shape)


def decay_init(context):
  """log(-log w) from -6 (remembers 400 tokens) to -1 (3 tokens) over the channels; deeper blocks
  hold more channels that remember."""

  def init(key, shape, dtype=jnp.float32):
    return (-6 + 5 * flat(shape) ** (0.7 + 1.3 * relative_depth(context))).astype(dtype)

  return init


def _bonus_init(context):
  """The depth's share of a falling line, with a zigzag of tenths."""

  def init(key, shape, dtype=jnp.float32):
    zigzag = 0.1 * ((jnp.arange(shape[0] * shape[1]) + 1) % 3 - 1).reshape(shape)
    return (relative_depth(context) * (1 - flat(shape)) + zigzag).astype(dtype)

  return init
