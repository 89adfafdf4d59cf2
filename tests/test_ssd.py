"""State space duality: the chunked form against the definition, Mamba-2 against its paper.

Legend: B batch, T position, D model, I inner, H heads, K head size, G groups, N state.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from llm_jax.contract import Context, document_positions
from llm_jax.errors import UserError
from llm_jax.layers.mamba2 import Mamba2
from llm_jax.ops import ssd as op
from llm_jax.ops.ssd import ssd

B, H, K, G, N = 2, 4, 3, 2, 5


def close(a, b, tolerance=1e-5):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()))


def arguments(length, dtype=jnp.float32):
  """Row 0 packs documents that start inside chunks, row 1 ends with padding (dt = 0)."""
  rng = np.random.default_rng(0)
  dt_BTH = rng.uniform(0.01, 1, (B, length, H))
  dt_BTH[1, length - length // 4 :] = 0
  maps = (rng.normal(size=(B, length, G, N)) for _ in range(2))
  x, dt, *maps = (
    jnp.asarray(a, dtype) for a in (rng.normal(size=(B, length, H, K)), dt_BTH, *maps)
  )
  A_H = jnp.asarray(-rng.uniform(0.1, 4, H), jnp.float32)
  initial_BHKN = jnp.asarray(rng.normal(size=(B, H, K, N)), jnp.float32)
  reset_BT = jnp.zeros((B, length), bool).at[0, jnp.array([length // 3, length // 2])].set(True)
  return (x, dt, A_H, *maps, initial_BHKN), reset_BT


def value_and_gradients(form, given, reset_BT=None):
  """(y, final), and the gradients of a random combination of both."""
  rng = np.random.default_rng(1)

  @jax.jit
  def run(*given):
    def loss(*given):
      outputs = ssd(*given, reset_BT=reset_BT, implementation=form)
      weights = [jnp.asarray(rng.normal(size=a.shape), jnp.float32) for a in outputs]
      return sum((a * w).sum() for a, w in zip(outputs, weights, strict=True)), outputs

    gradients, outputs = jax.grad(loss, argnums=tuple(range(6)), has_aux=True)(*given)
    return *outputs, *gradients

  return run(*given)


def same(given, reset_BT=None, tolerance=1e-5):
  chunked = value_and_gradients("chunked", given, reset_BT)
  for a, b in zip(chunked, value_and_gradients("reference", given, reset_BT), strict=True):
    assert bool(jnp.isfinite(a).all()) and a.dtype == b.dtype
    close(a, b, tolerance)
  return chunked


def test_the_definition_is_that_of_the_paper():
  (x, dt, A, b, c, h), _ = arguments(7)
  y_BTHK, final_BHKN = ssd(x, dt, A, b, c, h, implementation="reference")
  x, dt, A, b, c, h = (np.asarray(a, np.float64) for a in (x, dt, A, b, c, h))
  for t in range(7):
    for head in range(H):
      group = head // (H // G)
      decay_B11 = np.exp(dt[:, t, head] * A[head])[:, None, None]
      added_BKN = x[:, t, head, :, None] * b[:, t, group, None, :] * dt[:, t, head, None, None]
      h[:, head] = decay_B11 * h[:, head] + added_BKN
      close(y_BTHK[:, t, head], np.einsum("bkn,bn->bk", h[:, head], c[:, t, group]))
  close(final_BHKN, h)


@pytest.mark.parametrize("length", [1, 37, 150])
def test_the_chunked_form_equals_the_definition(length):
  same(*arguments(length))


def test_the_size_of_a_chunk_changes_nothing(monkeypatch):
  given, reset_BT = arguments(37)
  run = functools.partial(ssd, reset_BT=reset_BT, implementation="chunked")
  whole = jax.jit(lambda *given: run(*given))(*given)
  monkeypatch.setattr(op, "_CHUNK", 8)
  for a, b in zip(jax.jit(run)(*given), whole, strict=True):
    close(a, b)


def test_a_document_and_a_continued_row_are_what_they_are_alone():
  (x, dt, A, b, c, h), reset_BT = arguments(150)
  run = jax.jit(functools.partial(ssd, implementation="chunked"))
  whole, final = run(x, dt, A, b, c, h, reset_BT=reset_BT)
  first, last = 50, 75  # both inside chunks of 64
  alone, _ = run(x[:1, first:last], dt[:1, first:last], A, b[:1, first:last], c[:1, first:last])
  close(whole[:1, first:last], alone)
  cut = 90
  start = run(*(a[:, :cut] for a in (x, dt)), A, b[:, :cut], c[:, :cut], h)[1]
  rest, end = run(*(a[:, cut:] for a in (x, dt)), A, b[:, cut:], c[:, cut:], start)
  close(whole[1:, cut:], rest[1:])
  close(final[1:], end[1:])


def test_the_chunked_form_survives_strong_and_mixed_decays_over_long_rows():
  """Decays of 1e-8 and of 0, weak ones between strong ones, and weak ones alone."""
  rng, length = np.random.default_rng(0), 4096
  dt_BTH = np.ones((1, length, 4))
  dt_BTH[..., 2] = np.where(rng.random((1, length)) < 0.5, 1, 1e-4)
  dt_BTH[..., 3] = 0.01  # of less, the definition's own rounding of exp would show
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  A_H = jnp.array([-18.42, -200.0, -50.0, -1.0])
  maps = draw(1, length, 1, 2), draw(1, length, 1, 2)
  same((draw(1, length, 4, 2), jnp.asarray(dt_BTH, jnp.float32), A_H, *maps, draw(1, 4, 2, 2)))


def test_half_precision_ends_at_the_inputs():
  given, reset_BT = arguments(150, jnp.bfloat16)
  y, final, *_ = same(given, reset_BT, 1e-2)
  assert y.dtype == jnp.bfloat16 and final.dtype == jnp.float32
  full = ssd(*(a.astype(jnp.float32) for a in given), reset_BT=reset_BT, implementation="reference")
  close(final, full[1])


def built(layer, length, d_model):
  """x, its context, and perturbed parameters as float64 arrays and as float32 ones."""
  rng = np.random.default_rng(0)
  x_BTD = jnp.asarray(rng.normal(size=(B, length, d_model)), jnp.float32)
  segments_BT = jnp.ones((B, length), jnp.int32)
  context = Context(document_positions(segments_BT), segments_BT)
  params = nn.unbox(jax.jit(layer.init)(jax.random.key(0), x_BTD, context)["params"])
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64) + 0.2 * rng.normal(size=p.shape), params)
  return x_BTD, context, exact, jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), exact)


@pytest.mark.parametrize("dt_limits", [(), (0.2, 0.6)])
def test_mamba2_is_the_block_of_its_paper(dt_limits):
  length, d_model, inner = 11, 6, 12
  layer = Mamba2(d_state=N, head_dim=K, num_groups=G, use_bias=True, dt_limits=dt_limits)
  x_BTD, context, p, params = built(layer, length, d_model)
  y_BTD, _ = jax.jit(layer.apply)({"params": params}, x_BTD, context)

  silu = lambda a: a / (1 + np.exp(-a))
  for row, u in enumerate(np.asarray(x_BTD, np.float64)):
    projected = u @ p["in_proj"]["kernel"] + p["in_proj"]["bias"]
    z, xbc, dt = np.split(projected, [inner, 2 * inner + 2 * G * N], axis=-1)
    past = np.concatenate([np.zeros((3, xbc.shape[1])), xbc])
    taps = np.stack([past[t : t + 4] for t in range(length)])
    xbc = silu((taps * p["conv1d"]["kernel"]).sum(1) + p["conv1d"]["bias"])
    x, b, c = np.split(xbc, [inner, inner + G * N], axis=-1)
    x, b, c = x.reshape(length, H, K), b.reshape(length, G, N), c.reshape(length, G, N)
    dt = np.log1p(np.exp(dt + p["dt_bias"]))
    dt = np.clip(dt, *dt_limits) if dt_limits else dt
    h, y = np.zeros((H, K, N)), np.zeros_like(x)
    for t in range(length):
      b_HN, c_HN = np.repeat(b[t], H // G, axis=0), np.repeat(c[t], H // G, axis=0)
      decay = np.exp(-np.exp(p["A_log"]) * dt[t])[:, None, None]
      h = decay * h + (dt[t, :, None] * x[t])[..., None] * b_HN[:, None]
      y[t] = np.einsum("hkn,hn->hk", h, c_HN) + p["D"][:, None] * x[t]
    gated = (y.reshape(length, inner) * silu(z)).reshape(length, G, -1)
    normed = gated / np.sqrt((gated**2).mean(-1, keepdims=True) + 1e-5)
    normed = normed.reshape(length, inner) * p["norm"]["scale"]
    close(y_BTD[row], normed @ p["out_proj"]["kernel"] + p["out_proj"]["bias"])


@pytest.mark.parametrize(
  "fields, named", [({"head_dim": 5}, "head_dim 5"), ({"head_dim": 4, "num_groups": 2}, "3 heads")]
)
def test_heads_that_do_not_fit_are_refused_by_name(fields, named):
  with pytest.raises(UserError, match=named):
    Mamba2(**fields).initial_state(1, 4, 0, 6, jnp.float32)
