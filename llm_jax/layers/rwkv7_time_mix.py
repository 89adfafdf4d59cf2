"""RWKV-7's time mixing: a state that is edited by the delta rule, with rates for each channel.

Legend: B batch, T position, D model, H heads, K head size, R rank.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.layers.rwkv4_time_mix import channel_parameter, mix, mixing_init, relative_depth
from llm_jax.layers.rwkv5_time_mix import (
  HeadNorm,
  flat,
  head_parameter,
  heads,
  matrix_state,
  merge,
)
from llm_jax.layers.rwkv6_time_mix import low_rank, previous_init
from llm_jax.ops.linear import linear
from llm_jax.ops.shift import token_shift
from llm_jax.ops.wkv7 import wkv7

_POWERS = {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}  # of the initial mixtures
_SHARPEST = -0.6065306597126334  # log decay of a step at most: -exp(-1/2)


class Rwkv7TimeMix(nn.Module):
  """y = output(gate * (norm(wkv(r, w, k, v, a)) + bonus)).

  Values are mixed with those of the stack's first such layer, which travel in `context.shared`.
  There v0, v1 and v2 have no part; a variant with value_rank 0 does without them. Called on its
  own, outside a stack, the layer takes the first values to be zero.

  The state is the previous token's x ("shift", in the given dtype), and S of `ops/wkv7` ("wkv").

  Attributes:
    num_heads: heads of size d_model / num_heads; published models have heads of 64.
    decay_rank, rate_rank, value_rank, gate_rank: of the low-rank maps from a token to its decay,
      learning rate, share of the first values (0: none is taken), and gate.
    implementation: form of `ops/wkv7`.

  Initialisation is the published one: it depends on the channel and the depth; keys start small,
  output and the low-rank maps at zero.

  Source: Peng et al. 2025, arXiv:2503.14456; initial values: BlinkDL/RWKV-LM,
  RWKV-v7/train_temp/src/model.py.
  """

  num_heads: int = 4
  decay_rank: int = 32
  rate_rank: int = 32
  value_rank: int = 32
  gate_rank: int = 32
  implementation: str = "auto"

  no_decay = ("[xk]_[a-z]", "r_k", "[wavg][012]")

  @nn.compact
  def __call__(self, x_BTD, context, state=None):
    context.require_causal("rwkv7_time_mix")
    shift = None if state is None else state["shift"]
    previous_BTD, shift = token_shift(x_BTD, context.positions_BT, context.segments_BT, shift)
    mixed = {
      name: mix(previous_BTD, x_BTD, channel_parameter(self, f"x_{name}", init, x_BTD.shape[-1]))
      for name, init in (
        (name, previous_init(mixing_init(context, power))) for name, power in _POWERS.items()
      )
    }
    r_BTHK = heads("receptance", self.num_heads, 1 / 12)(mixed["r"])
    k_BTHK = heads("key", self.num_heads, 1 / 1200)(mixed["k"])
    v_BTHK, shared = self._values(mixed["v"], context)
    gate_BTHK = self._low_rank("g", self.gate_rank, mixed["g"], jax.nn.sigmoid)
    log_decay_BTHK = _SHARPEST * jax.nn.sigmoid(
      self._shifted("w", self.decay_rank, mixed["w"], _decay_init(context), jnp.tanh)
    )
    rate_BTHK = jax.nn.sigmoid(self._shifted("a", self.rate_rank, mixed["a"], _rate_init))
    y_BTHK, state = self._mix(r_BTHK, log_decay_BTHK, k_BTHK, v_BTHK, rate_BTHK, context, state)
    state = None if state is None else {"shift": shift, "wkv": state}
    return merge(y_BTHK * gate_BTHK), state, shared

  def _mix(self, r_BTHK, log_decay_BTHK, k_BTHK, v_BTHK, rate_BTHK, context, state):
    """The heads' outputs, normalised, with the bonus of the token itself."""
    shape, k_BTHK = k_BTHK.shape, k_BTHK.astype(jnp.float32)
    k_k, k_a, r_k = (
      head_parameter(self, name, init, shape[2:])[None, None]
      for name, init in (
        ("k_k", lambda key, shape, dtype: 0.76 - 0.1 * flat(shape)),
        ("k_a", nn.initializers.constant(1.02)),
        ("r_k", nn.initializers.constant(-0.04)),
      )
    )
    kappa_BTHK = _unit(k_BTHK * k_k)
    k_BTHK = k_BTHK * (1 + (rate_BTHK - 1) * k_a)
    before = matrix_state(self.num_heads, shape[0], shape[2] * shape[3], v_BTHK.dtype)
    y_BTHK, after_BHKK = wkv7(
      r_BTHK,
      log_decay_BTHK,
      k_BTHK,
      v_BTHK,
      -kappa_BTHK,
      kappa_BTHK * rate_BTHK,
      (before if state is None else state)["wkv"],
      context.starts_BT if state is None else None,
      context.real_BT,
      implementation=self.implementation,
    )
    bonus_BTH1 = (r_BTHK.astype(jnp.float32) * k_BTHK * r_k).sum(-1, keepdims=True)
    y_BTHK = HeadNorm(name="ln_x")(y_BTHK, context) + bonus_BTH1.astype(v_BTHK.dtype) * v_BTHK
    return y_BTHK, (None if state is None else after_BHKK)

  def _values(self, x_BTD, context):
    """Values, moved towards those of the stack's first layer, and what later layers are told."""
    v_BTHK = heads("value", self.num_heads, 1 / 12)(x_BTD)
    first_BTHK = context.shared.get("rwkv7_values", jnp.zeros_like(v_BTHK))
    made = context.shared.get("rwkv7_made", jnp.array(True))
    first_BTHK = jnp.where(made, first_BTHK, v_BTHK)
    if self.value_rank:
      share_BTHK = jax.nn.sigmoid(self._shifted("v", self.value_rank, x_BTD, _value_init))
      v_BTHK = v_BTHK + (first_BTHK - v_BTHK) * share_BTHK.astype(v_BTHK.dtype)
    return v_BTHK, {"rwkv7_values": first_BTHK, "rwkv7_made": jnp.array(True)}

  def _shifted(self, name, rank, x_BTD, init, activation=lambda low: low):
    """A channel's own number plus the token's, float32."""
    moved_BTHK = self._low_rank(name, rank, x_BTD, activation)
    own_HK = head_parameter(self, f"{name}0", init, moved_BTHK.shape[2:])
    return own_HK[None, None] + moved_BTHK.astype(jnp.float32)

  def _low_rank(self, name, rank, x_BTD, activation):
    """activation(x W1) W2, in heads."""
    d_model, zeros, small = x_BTD.shape[-1], nn.initializers.zeros, nn.initializers.normal
    shape_RHK = (rank, self.num_heads, d_model // self.num_heads)
    down_DR = low_rank(self, f"{name}1", zeros, (d_model, rank), ("embed", None))
    up_RHK = low_rank(
      self, f"{name}2", small(0.1 * d_model**-0.5), shape_RHK, (None, "heads", None)
    )
    return linear(activation(linear(x_BTD, down_DR)), up_RHK)

  @nn.nowrap
  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    return matrix_state(self.num_heads, batch, d_model, dtype)

  @nn.nowrap
  def initial_shared(self, x_BTD):
    """No values yet."""
    batch, length, d_model = x_BTD.shape
    values = jnp.zeros((batch, length, self.num_heads, d_model // self.num_heads), x_BTD.dtype)
    return {"rwkv7_values": values, "rwkv7_made": jnp.array(False)}


def _unit(x):
  """x divided by its length on the last axis, zeros staying zeros."""
  return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


def _zigzag(shape):
  """From -1 to 1 inside each head, flat in the middle."""
  line_K = 2 * jnp.arange(shape[1], dtype=jnp.float32) / max(shape[1] - 1, 1) - 1
  return jnp.broadcast_to(line_K * jnp.abs(line_K), shape)


def _decay_init(context):
  """Channels that remember first, more of them in deeper blocks; both within each head."""

  def init(key, shape, dtype=jnp.float32):
    power = 1 + relative_depth(context) ** 0.3
    return -5.5 + 6 * flat(shape) ** power + 2.5 * _zigzag(shape)

  return init


def _rate_init(key, shape, dtype=jnp.float32):
  return -0.39 + 0.3 * _zigzag(shape) + 0.4 * flat(shape)


def _value_init(key, shape, dtype=jnp.float32):
  return 0.93 - 0.4 * flat(shape)
