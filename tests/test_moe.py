"""The mixture of experts: routing by hand, its forms against each other, and room in a row.

Legend: B batch, T position, D model, F feed-forward, E experts, K choices of a token.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from llm_jax.contract import Context, document_positions
from llm_jax.errors import UserError
from llm_jax.layers.moe import Moe
from llm_jax.ops.experts import Experts, dropless, with_capacity
from llm_jax.ops.routing import balance_loss, expert_load, route, z_loss

B, T, D, F, E, K = 2, 9, 4, 6, 5, 2


def example(length=T, gated=True):
  """Tokens, their routing with one expert that nobody chooses, and the experts."""
  keys = jax.random.split(jax.random.key(0), 5)
  x_BTD = jax.random.normal(keys[0], (B, length, D))
  logits_BTE = jax.random.normal(keys[1], (B, length, E)).at[:, :, 3].set(-9.0)
  experts = Experts(
    inner_EDF=jax.random.normal(keys[2], (E, D, F)),
    outer_EFD=jax.random.normal(keys[3], (E, F, D)),
    gate_EDF=jax.random.normal(keys[4], (E, D, F)) if gated else None,
    function=jax.nn.silu,
  )
  return x_BTD, logits_BTE, experts


def value_and_gradients(run, x_BTD, logits_BTE, experts):
  """run(x, weights, chosen, experts) and the gradients of a weighting of it to all inputs."""
  weighting_BTD = jax.random.normal(jax.random.key(1), x_BTD.shape)

  def loss(x_BTD, logits_BTE, experts):
    weights_BTK, chosen_BTK, _ = route(logits_BTE, K)
    y_BTD = run(x_BTD, weights_BTK, chosen_BTK, experts)
    return (y_BTD * weighting_BTD).sum(), y_BTD

  return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(x_BTD, logits_BTE, experts)


def close(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, atol=2e-5, rtol=2e-5)


def scaling_experts(number):
  """Expert e multiplies positive tokens by e + 1."""
  eye_EDD = jnp.tile(jnp.eye(D)[None], (number, 1, 1))
  factor_E11 = jnp.arange(1.0, number + 1)[:, None, None]
  return Experts(eye_EDD, eye_EDD * factor_E11, None, jax.nn.relu)


def test_route_takes_the_largest_and_renormalises():
  logits = jnp.log(jnp.array([[[0.1, 0.5, 0.15, 0.25]]]))
  weights, experts, probabilities = route(logits, 2)
  np.testing.assert_array_equal(experts[0, 0], [1, 3])
  np.testing.assert_allclose(weights[0, 0], [2 / 3, 1 / 3], rtol=1e-6)
  np.testing.assert_allclose(probabilities[0, 0], [0.1, 0.5, 0.15, 0.25], rtol=1e-6)
  np.testing.assert_allclose(route(logits, 2, renormalise=False)[0][0, 0], [0.5, 0.25], rtol=1e-6)


@pytest.mark.parametrize("form", ["reference", "ragged", "blocks"])
def test_every_token_gets_the_weighted_sum_of_its_experts(form):
  x_BTD = jnp.array([[[1.0] * D, [2.0] * D, [3.0] * D]])
  weights, chosen = jnp.array([[[0.75, 0.25]] * 3]), jnp.array([[[0, 1], [2, 0], [2, 1]]])
  run = jax.jit(dropless, static_argnames="implementation")
  y_BTD = run(x_BTD, weights, chosen, scaling_experts(3), implementation=form)
  # Token 1: 2 (0.75 * 3 + 0.25 * 1); expert e multiplies by e + 1.
  np.testing.assert_allclose(y_BTD[0, :, 0], [1.25, 5.0, 8.25], rtol=1e-6)


@pytest.mark.parametrize("form", ["ragged", "blocks"])
@pytest.mark.parametrize("length, gated", [(T, True), (1, True), (70, False)])
def test_fast_forms_equal_the_reference_in_value_and_gradient(form, length, gated):
  arrays = example(length, gated)
  run = lambda form: value_and_gradients(
    lambda *chosen: dropless(*chosen, implementation=form), *arrays
  )
  close(run(form), run("reference"))


def test_ample_capacity_equals_dropless_in_value_and_gradient():
  real_BT = jnp.ones((B, T), bool)
  ample = lambda *chosen: with_capacity(*chosen, real_BT, float(E))[0]
  reference = lambda *chosen: dropless(*chosen, implementation="reference")
  close(value_and_gradients(ample, *example()), value_and_gradients(reference, *example()))


def test_the_first_to_come_are_served_and_padding_takes_no_room():
  x_BTD = jnp.ones((2, 6, D))
  chosen = jnp.zeros((2, 6, 1), jnp.int32).at[:, 2].set(1)
  real_BT = jnp.array([[1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0]], bool)
  weights = jnp.ones((2, 6, 1))
  limited = jax.jit(with_capacity, static_argnums=5)
  y_BTD, dropped_B = limited(x_BTD, weights, chosen, scaling_experts(2), real_BT, 1.0)
  # Room 1.0 * 6 / 2 = 3 in row 0, and 1.0 * 4 / 2 = 2 in row 1.
  np.testing.assert_array_equal(y_BTD[:, :, 0], [[1, 1, 2, 1, 0, 0], [0, 1, 2, 1, 0, 0]])
  np.testing.assert_allclose(dropped_B, [2 / 6, 1 / 4])


def test_losses_of_routers_worked_out_by_hand():
  real_BT = jnp.array([[1, 1, 1], [0, 1, 1], [0, 0, 0]], bool)
  level = jnp.zeros((3, 3, E))
  steep = jnp.full((3, 3, E), -100.0).at[:, :, 2].set(2.0)
  padded = level.at[1, 0].set(jnp.arange(E) * 7.0)
  for logits_BTE, top_k, balance, z in (
    (level, 2, 1.0, np.log(E) ** 2),
    (steep, 1, E, 4.0),
    (padded, 2, 1.0, np.log(E) ** 2),
  ):
    _, chosen_BTK, probabilities_BTE = route(logits_BTE, top_k)
    load_BE = expert_load(chosen_BTK, real_BT, E)
    np.testing.assert_allclose(load_BE.sum(1), [1, 1, 0], rtol=1e-6)
    balance_B = balance_loss(probabilities_BTE, load_BE, real_BT)
    np.testing.assert_allclose(balance_B, [balance, balance, 0], rtol=1e-5)
    np.testing.assert_allclose(z_loss(logits_BTE, real_BT), [z, z, 0], rtol=1e-5)


def test_balance_counts_both_choices():
  """Half of the choices on expert 0, a quarter each on 1 and 2, none on 3."""
  _, chosen_BTK, probabilities_BTE = route(
    jnp.log(jnp.array([[[0.6, 0.2, 0.1, 0.1], [0.6, 0.1, 0.2, 0.1]]])), 2
  )
  real_BT = jnp.ones((1, 2), bool)
  load_BE = expert_load(chosen_BTK, real_BT, 4)
  np.testing.assert_allclose(load_BE[0], [0.5, 0.25, 0.25, 0])
  loss_B = balance_loss(probabilities_BTE, load_BE, real_BT)
  np.testing.assert_allclose(loss_B, [4 * (0.5 * 0.6 + 0.25 * 0.15 + 0.25 * 0.15)], rtol=1e-6)


def layer_call(layer, x_BTD, segments_BT, train, state=None, level=False):
  """Output, state, and what the layer sows; `level` makes its router uniform."""
  context = Context(document_positions(segments_BT), segments_BT, train=train)
  params = nn.unbox(jax.jit(layer.init)(jax.random.key(0), x_BTD, context))["params"]
  if level:
    params["router"]["kernel"] *= 0
  call = lambda x: layer.apply(
    {"params": params}, x, context, state, mutable=["losses", "intermediates"]
  )
  return jax.jit(call)(x_BTD)


def test_the_layer_sows_weighted_losses_a_row():
  layer = Moe(balance_weight=0.5, z_weight=0.25)
  _, sown = layer_call(layer, example()[0], jnp.ones((B, T), jnp.int32), train=True, level=True)
  np.testing.assert_allclose(sown["losses"]["balance"][0], [0.5] * B, rtol=1e-6)
  np.testing.assert_allclose(sown["losses"]["z"][0], [0.25 * np.log(4) ** 2] * B, rtol=1e-6)
  np.testing.assert_allclose(sown["intermediates"]["expert_load"][0], [[0.5, 0.5, 0, 0]] * B)


def test_tokens_are_dropped_in_training_alone():
  """A level router sends all tokens to two experts, whose room is half of them."""
  x_BTD, segments_BT = example()[0], jnp.ones((B, T), jnp.int32)
  run = lambda dropless, train, state=None: layer_call(
    Moe(dropless=dropless, capacity_factor=1.0), x_BTD, segments_BT, train, state, level=True
  )
  (whole_BTD, _), _ = run(True, True)
  (trained_BTD, _), sown = run(False, True)
  np.testing.assert_allclose(sown["intermediates"]["dropped"][0], [4 / 9] * B, rtol=1e-6)
  np.testing.assert_array_equal(trained_BTD[:, 5:], jnp.zeros((B, 4, D)))
  close(trained_BTD[:, :5], whole_BTD[:, :5])
  close(run(False, False)[0][0], whole_BTD)
  (continued_BTD, state), _ = run(False, True, {})
  assert state == {}
  close(continued_BTD, whole_BTD)


def test_with_capacity_padding_and_other_rows_change_nothing():
  layer = Moe(dropless=False, capacity_factor=0.7)
  x_BTD = example()[0]
  (plain_BTD, _), sown = layer_call(layer, x_BTD, jnp.ones((B, T), jnp.int32), train=True)
  assert float(sown["intermediates"]["dropped"][0].min()) > 0
  padded = jnp.pad(x_BTD, ((0, 0), (3, 2), (0, 0)), constant_values=3.0).at[1].multiply(-2.0)
  segments_BT = jnp.pad(jnp.ones((B, T), jnp.int32), ((0, 0), (3, 2)))
  (y_BTD, _), padded_sown = layer_call(layer, padded, segments_BT, train=True)
  close(y_BTD[0, 3:-2], plain_BTD[0])
  for name in ("balance", "z"):
    np.testing.assert_allclose(
      padded_sown["losses"][name][0][0], sown["losses"][name][0][0], rtol=1e-5
    )


@pytest.mark.parametrize("fields", [{"top_k": 5}, {"top_k": 0}, {"capacity_factor": 0.0}])
def test_impossible_routing_is_refused(fields):
  with pytest.raises(UserError, match=next(iter(fields))):
    layer_call(Moe(**fields), example()[0], jnp.ones((B, T), jnp.int32), train=True)
