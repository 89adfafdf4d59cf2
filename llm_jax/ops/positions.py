"""Where a token is: rotary angles, sinusoids, ALiBi slopes, T5's relative buckets.

Legend: B batch, T position, S key position, H heads, K head size, D model.
"""

import math

import jax.numpy as jnp
import numpy as np

from llm_jax.errors import unknown


def rotate(x_BTHK, positions_BT, base: float = 10_000.0, fraction: float = 1.0, scaling=()):
  """Rotary position embedding: pairs (x_i, x_{i+K/2}) turn by position * base^(-2i/K).

  The halves are paired as GPT-NeoX and Llama store them, not neighbours as in the paper. Angles
  are float32: bfloat16 angles are off by whole radians past position 256.

  Args:
    x_BTHK: queries or keys.
    positions_BT: int32.
    base: the longest wavelength is 2 pi base.
    fraction: the share of K that turns, from its start; the rest stays (GPT-NeoX).
    scaling: how frequencies change for longer texts than a model was trained on: ("linear", factor)
      or ("llama3", factor, low, high, length); () is not at all.

  Source: Su et al. 2021, arXiv:2104.09864, eq. 34.
  """
  turning = int(x_BTHK.shape[-1] * fraction)
  half = turning // 2
  frequency_K = _scaled(base ** (-np.arange(half, dtype=np.float32) / half), scaling)
  angle_BTK = positions_BT[:, :, None].astype(jnp.float32) * frequency_K[None, None, :]
  sin_BT1K, cos_BT1K = jnp.sin(angle_BTK)[:, :, None, :], jnp.cos(angle_BTK)[:, :, None, :]
  first, second = jnp.split(x_BTHK[..., :turning].astype(jnp.float32), 2, axis=-1)
  turned = (first * cos_BT1K - second * sin_BT1K, second * cos_BT1K + first * sin_BT1K)
  turned = [part.astype(x_BTHK.dtype) for part in turned]
  return jnp.concatenate([*turned, x_BTHK[..., turning:]], axis=-1)


def _scaled(frequency_K, scaling):
  """Angles a position under a scaling of `rotate`.

  "linear" divides all frequencies by the factor (Chen et al. 2023, arXiv:2306.15595, eq. 3).
  "llama3" divides those that turn less than `low` times in the original length, leaves those that
  turn more than `high` times, and blends in between (Llama 3, arXiv:2407.21783; the arithmetic is
  that of its published code).
  """
  if not scaling:
    return frequency_K
  kind, factor, *rest = scaling
  if kind == "linear":
    return frequency_K / factor
  if kind != "llama3":
    raise unknown("rope_scaling", kind, ("linear", "llama3"))
  low, high, length = rest
  turns_K = length * frequency_K / (2 * math.pi)
  kept_K = np.clip((turns_K - low) / (high - low), 0, 1)
  return (frequency_K * (kept_K + (1 - kept_K) / factor)).astype(np.float32)


def sinusoids(positions_BT, d_model: int, halves: bool = False):
  """(B, T, D) float32: sines and cosines of wavelengths 2 pi 10000^(2i/D).

  Sines stand in the even columns and cosines in the odd ones as in the paper, or, `halves`, all
  sines before all cosines as in its published code.

  Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
  """
  frequency = 10_000.0 ** (-np.arange(0, d_model, 2, dtype=np.float32) / d_model)
  angle = positions_BT[:, :, None].astype(jnp.float32) * frequency[None, None, :]
  waves = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-2 if halves else -1)
  return waves.reshape(*positions_BT.shape, -1)[:, :, :d_model]


def alibi_slopes(num_heads: int) -> np.ndarray:
  """(H,) float32: the factor of minus the distance that is added to each head's scores.

  A geometric sequence from 2^(-8/n); a number of heads n that is no power of two takes the
  sequence of the power below it, then every second slope of the one above.

  Source: Press et al. 2022, arXiv:2108.12409, section 3, and the authors' code for other n.
  """
  power = 2 ** math.floor(math.log2(num_heads))
  slopes = 2.0 ** (-8.0 / power * np.arange(1, power + 1))
  finer = 2.0 ** (-4.0 / power * np.arange(1, 2 * power + 1, 2))
  return np.concatenate([slopes, finer])[:num_heads].astype(np.float32)


def t5_buckets(relative, num_buckets: int, max_distance: int, bidirectional: bool):
  """Bucket of each relative position (key minus query): exact when near, logarithmic when far.

  Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1; the arithmetic follows the published
  code, so that trained tables fit.
  """
  offset = 0
  if bidirectional:
    num_buckets //= 2
    offset = jnp.where(relative > 0, num_buckets, 0)
    distance = jnp.abs(relative)
  else:
    distance = jnp.maximum(-relative, 0)
  exact = num_buckets // 2
  ratio = jnp.maximum(distance, 1).astype(jnp.float32) / exact
  far = jnp.log(ratio) / math.log(max_distance / exact) * (num_buckets - exact)
  far = jnp.minimum(exact + far.astype(jnp.int32), num_buckets - 1)
  return offset + jnp.where(distance < exact, distance, far)


def relative_bias(slopes_H, relative_BTS):
  """(B, H, T, S) float32: ALiBi's -slope * distance."""
  return -slopes_H[None, :, None, None] * jnp.abs(relative_BTS)[:, None].astype(jnp.float32)


def table_bias(table_NH, relative_BTS, max_distance: int, bidirectional: bool):
  """(B, H, T, S) float32: T5's learned bias of each bucket and head."""
  bucket_BTS = t5_buckets(relative_BTS, table_NH.shape[0], max_distance, bidirectional)
  return jnp.moveaxis(table_NH.astype(jnp.float32)[bucket_BTS], -1, 1)
