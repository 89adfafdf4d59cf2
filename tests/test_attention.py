"""Attention's forms against a loop over single scores, and the positions it may use.

Legend: B batch, T query position, S key position, H heads, G key/value heads, K head size.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.contract import Context, document_positions
from llm_jax.layers.attention import Attention
from llm_jax.modules import Projection
from llm_jax.ops import positions
from llm_jax.ops.attention import Tokens, attention, visible

B, T, H, G, K = 2, 300, 4, 2, 8


def arrays(seed=0):
  keys = jax.random.split(jax.random.key(seed), 3)
  q_BTHK = jax.random.normal(keys[0], (B, T, H, K))
  return q_BTHK, *(jax.random.normal(k, (B, G, T, K)) for k in keys[1:])


def columns(context, start, stop):
  """The context of some of its columns."""
  prefix = context.prefix_BT
  return context.replace(
    positions_BT=context.positions_BT[:, start:stop],
    segments_BT=context.segments_BT[:, start:stop],
    prefix_BT=None if prefix is None else prefix[:, start:stop],
  )


def packed():
  """Two documents and some padding in each row."""
  segments_BT = jnp.concatenate(
    [jnp.full((B, 170), 1), jnp.full((B, 121), 2), jnp.zeros((B, 9), int)], axis=1
  ).astype(jnp.int32)
  return Tokens(document_positions(segments_BT), segments_BT)


def one_score_at_a_time(q_BTHK, k_BGSK, v_BGSK, tokens, window, slopes_H, soft_cap):
  """The definition in numpy, for a few queries of the first row."""
  q, k, v = (np.asarray(a[0], np.float64) for a in (q_BTHK, k_BGSK, v_BGSK))
  place, document = np.asarray(tokens.positions[0]), np.asarray(tokens.segments[0])
  outputs = {}
  for t in (0, 3, 169, 170, 240, 290):
    for h in range(H):
      g, scores, values = h // (H // G), [], []
      for s in range(T):
        distance = place[t] - place[s]
        if document[s] == document[t] and 0 <= distance < (window or T):
          score = q[t, h] @ k[g, s] / np.sqrt(K)
          score = soft_cap * np.tanh(score / soft_cap) if soft_cap else score
          scores.append(score - slopes_H[h] * distance)
          values.append(v[g, s])
      weights = np.exp(scores) / np.exp(scores).sum()
      outputs[t, h] = weights @ np.array(values)
  return outputs


@pytest.mark.parametrize("form", ["reference", "blockwise", "aligned"])
@pytest.mark.parametrize(("window", "soft_cap"), [(0, 0.0), (50, 2.0)])
def test_every_form_is_the_definition(form, window, soft_cap):
  slopes_H = positions.alibi_slopes(H)
  tokens = packed()
  y_BTHK = attention(
    *arrays(),
    tokens,
    tokens,
    window=window,
    bias=lambda relative_BTS: positions.relative_bias(jnp.asarray(slopes_H), relative_BTS),
    soft_cap=soft_cap,
    implementation=form,
  )
  expected = one_score_at_a_time(*arrays(), tokens, window, slopes_H, soft_cap)
  for (t, h), value in expected.items():
    np.testing.assert_allclose(y_BTHK[0, t, h], value, atol=2e-5)
  assert bool(jnp.isfinite(y_BTHK).all())


@pytest.mark.parametrize("form", ["blockwise", "aligned"])
def test_every_form_has_the_gradient_of_the_reference(form):
  tokens = packed()
  real_BT11 = (tokens.segments > 0)[..., None, None]
  weights = jax.random.normal(jax.random.key(5), (B, T, H, K)) * real_BT11

  def gradients(form, window):
    loss = lambda q, k, v: jnp.vdot(
      attention(q, k, v, tokens, tokens, window=window, implementation=form), weights
    )
    return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arrays())

  for window in (0, 50):
    for g, r in zip(gradients(form, window), gradients("reference", window), strict=True):
      np.testing.assert_allclose(g, r, atol=2e-5)


def test_a_prefix_is_seen_both_ways_and_only_by_itself():
  segments_BT = jnp.ones((1, 5), jnp.int32)
  tokens = Tokens(
    document_positions(segments_BT), segments_BT, jnp.array([[True, True, True, False, False]])
  )
  expected = np.tril(np.ones((5, 5), bool))
  expected[:3, :3] = True
  np.testing.assert_array_equal(visible(tokens, tokens, causal=True)[0], expected)


def test_a_prefix_read_through_the_cache_equals_the_whole_row():
  layer = Attention(positions="rope")
  x_BTD = jax.random.normal(jax.random.key(0), (B, 9, 32))
  ones = jnp.ones((B, 9), jnp.int32)
  context = Context(document_positions(ones), ones, prefix_BT=jnp.arange(9)[None].repeat(B, 0) < 4)
  params = jax.tree.map(
    lambda leaf: leaf.value,
    layer.init(jax.random.key(1), x_BTD, context),
    is_leaf=lambda leaf: hasattr(leaf, "value"),
  )
  whole, _ = layer.apply(params, x_BTD, context)
  causal, _ = layer.apply(params, x_BTD, context.replace(prefix_BT=None))
  state = layer.initial_state(B, 12, 0, 32, jnp.float32)
  first, state = layer.apply(params, x_BTD[:, :6], columns(context, 0, 6), state)
  second, _ = layer.apply(params, x_BTD[:, 6:], columns(context, 6, 9), state)
  np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=1e-5)
  assert float(jnp.abs(causal[:, :3] - whole[:, :3]).max()) > 1e-2


@pytest.mark.parametrize("window", [3, 8])
@pytest.mark.parametrize("sizes", [[20], [1] * 20, [7, 1, 12], [2, 18]])
def test_a_ring_of_the_windows_size_is_enough(window, sizes):
  layer = Attention(window=window, num_kv_heads=1)
  x_BTD = jax.random.normal(jax.random.key(0), (B, 20, 32))
  ones = jnp.ones((B, 20), jnp.int32)
  context = Context(document_positions(ones), ones)
  params = layer.init(jax.random.key(1), x_BTD, context)
  whole, _ = jax.jit(layer.apply)(params, x_BTD, context)
  state = layer.initial_state(B, 20, 0, 32, jnp.float32)
  assert state["k"].shape[2] == window
  start, parts = 0, []
  for size in sizes:
    part = columns(context, start, start + size)
    y, state = jax.jit(layer.apply)(params, x_BTD[:, start : start + size], part, state)
    parts.append(y)
    start += size
  np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, atol=1e-5)


def test_rotation_depends_on_distance_alone():
  keys = jax.random.split(jax.random.key(0))
  q, k = (jax.random.normal(key, (1, 1, 1, 16)) for key in keys)
  score = lambda i, j: float(
    jnp.vdot(positions.rotate(q, jnp.array([[i]])), positions.rotate(k, jnp.array([[j]])))
  )
  assert score(5, 2) == pytest.approx(score(105, 102), abs=1e-4)
  assert abs(score(5, 2) - score(5, 3)) > 1e-2


def test_rotation_turns_each_pair_by_its_angle():
  x = np.random.default_rng(0).normal(size=(1, 1, 1, 6)).astype(np.float32)
  place, y = 7, x[0, 0, 0].copy()
  for i in range(3):
    angle = place * 10_000.0 ** (-2 * i / 6)
    a, b = x[0, 0, 0, i], x[0, 0, 0, i + 3]
    y[i], y[i + 3] = a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)
  np.testing.assert_allclose(positions.rotate(x, jnp.array([[place]]))[0, 0, 0], y, atol=1e-5)


def test_alibi_slopes_are_the_published_ones():
  np.testing.assert_allclose(positions.alibi_slopes(8), [2.0**-i for i in range(1, 9)])
  # Twelve heads: those of eight, then every second slope of sixteen.
  expected = [2.0**-i for i in range(1, 9)] + [2.0 ** -(i / 2) for i in (1, 3, 5, 7)]
  np.testing.assert_allclose(positions.alibi_slopes(12), expected)


def test_t5_buckets_are_exact_near_and_logarithmic_far():
  relative = jnp.array([0, -1, -15, -16, -127, -128, -10_000, 5])
  one_way = positions.t5_buckets(relative, 32, 128, bidirectional=False)
  np.testing.assert_array_equal(one_way, [0, 1, 15, 16, 31, 31, 31, 0])
  both_ways = positions.t5_buckets(
    jnp.array([0, -7, -8, -200, 7, 200]), 32, 128, bidirectional=True
  )
  np.testing.assert_array_equal(both_ways, [0, 7, 8, 15, 23, 31])


def test_sinusoids_are_the_published_ones():
  table = positions.sinusoids(jnp.array([[0, 3]]), 6)
  expected = [f(3 / 10_000 ** (2 * i / 6)) for i in range(3) for f in (np.sin, np.cos)]
  np.testing.assert_allclose(table[0], [[0, 1, 0, 1, 0, 1], expected], atol=1e-6)


def test_a_projection_has_the_gradient_of_a_plain_product():
  x = jax.random.normal(jax.random.key(0), (2, 5, 3, 4))
  layer = Projection((6,), ("heads", None, "embed"), inputs=2)
  params = layer.init(jax.random.key(1), x)
  kernel = params["params"]["kernel"].value
  bias = jnp.zeros(6)
  ours = lambda x, w: jnp.sin(layer.apply({"params": {"kernel": w, "bias": bias}}, x)).sum()
  plain = lambda x, w: jnp.sin(jnp.einsum("bthk,hkd->btd", x, w)).sum()
  gradients = (jax.grad(loss, (0, 1))(x, kernel) for loss in (ours, plain))
  for g, r in zip(*gradients, strict=True):
    np.testing.assert_allclose(g, r, atol=1e-5)
