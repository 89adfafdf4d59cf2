"""Griffin's recurrent block: against its equations, and over long rows of extreme decays.

Legend: B batch, T position, D model, H hidden.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from llm_jax.contract import Context, document_positions
from llm_jax.errors import UserError
from llm_jax.layers.rglru import Rglru

D, H, BLOCKS, TAPS = 6, 8, 2, 3


def context_of(segments_BT):
  return Context(document_positions(segments_BT), segments_BT)


def built(layer, noise):
  """Parameters of a layer of width D, perturbed so that no branch is silent."""
  context = context_of(jnp.ones((1, 3), jnp.int32))
  init = jax.jit(layer.init)
  params = nn.unbox(init(jax.random.key(0), jnp.ones((1, 3, D)), context)["params"])
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda p: p + noise * rng.normal(size=p.shape).astype(np.float32), params)


def sigmoid(a):
  return 1 / (1 + np.exp(-a))


def equations(p, x_TD):
  """The block on one document in float64, as the paper writes it: outputs, decays, last h."""
  affine = lambda name, a: a @ p[name]["kernel"] + p[name]["bias"]

  def gate(name, u_TH):
    u_TNI = u_TH.reshape(-1, BLOCKS, H // BLOCKS)
    kernel_NIJ, bias_NJ = p[name]["kernel"], p[name]["bias"]
    blocks = [u_TNI[:, n] @ kernel_NIJ[n] + bias_NJ[n] for n in range(BLOCKS)]
    return sigmoid(np.concatenate(blocks, axis=1))

  taps = p["conv1d"]["kernel"]
  past = np.concatenate([np.zeros((TAPS - 1, H)), affine("in", x_TD)])
  u_TH = sum(past[k : k + len(x_TD)] * taps[k] for k in range(TAPS)) + p["conv1d"]["bias"]
  rate_H = 8 * np.log1p(np.exp(p["Lambda"]))
  log_a_TH = -rate_H * gate("recurrence_gate", u_TH)
  input_TH = gate("input_gate", u_TH) * u_TH
  h_TH = [input_TH[0]]
  for t in range(1, len(x_TD)):
    h_TH.append(np.exp(log_a_TH[t]) * h_TH[-1] + np.sqrt(-np.expm1(2 * log_a_TH[t])) * input_TH[t])
  z = affine("gate", x_TD)
  gelu = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
  return affine("out", np.stack(h_TH) * gelu), np.exp(log_a_TH), h_TH[-1]


def test_the_block_is_the_papers_equations_on_each_document_of_a_row():
  layer = Rglru(hidden_size=H, blocks=BLOCKS, d_conv=TAPS)
  params = built(layer, noise=0.5)
  rng = np.random.default_rng(1)
  x_BTD = rng.normal(size=(2, 12, D)).astype(np.float32)
  segments_BT = jnp.array([[1] * 7 + [2] * 5, [0] * 2 + [1] * 9 + [0]])
  y_BTD, _ = jax.jit(layer.apply)({"params": params}, x_BTD, context_of(segments_BT))
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  for row, start, stop in ((0, 0, 7), (0, 7, 12), (1, 2, 11)):
    expected, decays, _ = equations(exact, x_BTD[row, start:stop].astype(np.float64))
    assert decays.min() < 0.5 and decays.max() > 0.9  # neither forgets all nor keeps all
    np.testing.assert_allclose(y_BTD[row, start:stop], expected, atol=2e-5)


@functools.cache
def long_rows(form):
  """4,096 steps of every kind of decay: value, last state and gradients; and the parameters."""
  layer = Rglru(hidden_size=H, blocks=BLOCKS, d_conv=TAPS, implementation=form)
  params = built(layer, noise=0.2)
  # softplus(2.2) * 8 is 18.4: a decay of 1e-8 where the gate is open. 30: of 0 in float32. -17 to
  # -30: so near 1 that the root of 1 - a^2 has an unbounded gradient.
  params["Lambda"] = jnp.array([2.2, 2.2, 30.0, -4.0, -8.0, -17.0, -30.0, -120.0])
  params["recurrence_gate"]["bias"] = jnp.full((BLOCKS, H // BLOCKS), 6.0)
  x_BTD = jax.random.normal(jax.random.key(1), (1, 4096, D))
  weights_BTD = jax.random.normal(jax.random.key(2), x_BTD.shape)
  state = layer.initial_state(1, 4096, 0, D, jnp.float32)
  context = context_of(jnp.ones((1, 4096), jnp.int32))

  def loss(params, x_BTD):
    y_BTD, last = layer.apply({"params": params}, x_BTD, context, state)
    return (y_BTD * weights_BTD).sum() + last["rnn"].sum(), (y_BTD, last["rnn"])

  gradients, values = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x_BTD)
  return values, gradients, params, x_BTD


@pytest.mark.parametrize("form", ["reference", "associative"])
def test_extreme_decays_over_long_rows_are_exact(form):
  (y_BTD, last_BH), _, params, x_BTD = long_rows(form)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  y_TD, decays_TH, last_H = equations(exact, np.asarray(x_BTD[0], np.float64))
  assert decays_TH[:, :2].min() < 2e-8 and decays_TH[:, 2].max() < 1e-40
  assert decays_TH[:, 5:].min() > 1 - 1e-6
  np.testing.assert_allclose(y_BTD[0], y_TD, atol=2e-5 * np.abs(y_TD).max())
  np.testing.assert_allclose(last_BH[0], last_H, atol=2e-5 * np.abs(last_H).max())


def test_extreme_decays_over_long_rows_have_the_same_finite_gradients_in_both_forms():
  _, gradients, _, _ = long_rows("associative")
  _, expected, _, _ = long_rows("reference")
  for (path, g), e in zip(
    jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(expected), strict=True
  ):
    assert bool(jnp.isfinite(e).all()), jax.tree_util.keystr(path)
    np.testing.assert_allclose(g, e, atol=1e-4 * float(jnp.abs(e).max()))


def test_it_starts_from_the_published_decays():
  params = built(Rglru(hidden_size=4096), noise=0)
  root = np.exp(-np.log1p(np.exp(np.asarray(params["Lambda"], np.float64))))
  assert 0.9 <= root.min() < 0.901 and 0.9985 < root.max() <= 0.9991
  np.testing.assert_allclose((root**2).mean(), (0.9**2 + 0.999**2) / 2, atol=3e-3)


def test_blocks_that_do_not_divide_the_width_are_refused():
  with pytest.raises(UserError, match=r"3 diagonal blocks.*hidden_size 8"):
    built(Rglru(hidden_size=H, blocks=3), noise=0)
