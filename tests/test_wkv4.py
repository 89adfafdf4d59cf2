"""RWKV-4's recurrence: its definition as sums, extreme exponents, and its forms against each other.

Legend: B batch, T position, D channel.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.models.build import build, init_params
from llm_jax.models.spec import model_config
from llm_jax.ops import wkv4 as op
from llm_jax.ops.wkv4 import initial_state

B, T, D = 3, 13, 6
FORMS = ("reference", "own_gradient", "associative")
every_form = pytest.mark.parametrize("form", FORMS)
wkv4 = jax.jit(op.wkv4, static_argnames="implementation")
every_fast_form = pytest.mark.parametrize("form", FORMS[1:])


def example(scale=1.0):
  """log decays from hardly any to e^-20 a step, bonus, keys of the given scale, values."""
  keys = jax.random.split(jax.random.key(0), 3)
  log_decay_D = -jnp.exp(jnp.linspace(-5.0, 3.0, D))
  k_BTD = scale * jax.random.normal(keys[0], (B, T, D))
  return (
    log_decay_D,
    jax.random.normal(keys[1], (D,)),
    k_BTD,
    jax.random.normal(keys[2], (B, T, D)),
  )


def state():
  keys = jax.random.split(jax.random.key(1), 3)
  a, b, p = (jax.random.normal(k, (B, D)) for k in keys)
  return a, 1 + jnp.abs(b), p


def masks():
  """Documents that start at a row's first token, inside it, right after padding and nowhere."""
  starts, real = np.zeros((B, T), bool), np.ones((B, T), bool)
  real[0, :2] = real[1, -3:] = real[2, 5:7] = False
  starts[0, 2] = starts[0, 7] = starts[1, 0] = starts[1, 1] = True
  return jnp.asarray(starts), jnp.asarray(real)


@every_form
def test_the_output_is_the_weighted_average_of_the_paper(form):
  w, u, k, v = (np.asarray(a, np.float64) for a in example())
  y_BTD, _ = wkv4(*example(), initial_state(B, D), implementation=form)
  for t in range(T):
    past_TD = np.arange(t - 1, -1, -1)[:, None] * w + k[:, :t]
    weight = np.exp(np.concatenate([past_TD, u + k[:, t : t + 1]], axis=1))
    expected = (weight * v[:, : t + 1]).sum(1) / weight.sum(1)
    np.testing.assert_allclose(y_BTD[:, t], expected, atol=1e-5)


@every_fast_form
def test_fast_forms_equal_the_reference_in_value_gradient_and_state(form):
  weights_BTD = jax.random.normal(jax.random.key(2), (B, T, D))

  def run(form):
    def loss(arrays, state):
      y_BTD, (a, b, _) = wkv4(*arrays, state, *masks(), implementation=form)
      return (y_BTD * weights_BTD).sum() + (a * weights_BTD[:, 0] + b * weights_BTD[:, 1]).sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(example(), state())
    return wkv4(*example(), state(), *masks(), implementation=form), gradients

  fast, slow = run(form), run("reference")
  for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(slow), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
  assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(slow))


def test_the_gradient_goes_through_a_state_handed_on():
  """The exponent of a state carries no gradient, and none is lost by that."""

  @jax.jit
  @jax.grad
  def whole(arrays):
    y_BTD, _ = wkv4(*arrays, initial_state(B, D), implementation="reference")
    return jnp.square(y_BTD).sum()

  @jax.jit
  @jax.grad
  def in_two(arrays):
    w, u, k, v = arrays
    y, middle = wkv4(w, u, k[:, :6], v[:, :6], initial_state(B, D), implementation="reference")
    z, _ = wkv4(w, u, k[:, 6:], v[:, 6:], middle, implementation="own_gradient")
    return jnp.square(y).sum() + jnp.square(z).sum()

  for a, b in zip(whole(example()), in_two(example()), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


@every_form
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_keys_far_outside_the_range_of_exp_stay_finite(form, dtype):
  w, u, _, v = example()
  signs_BTD = jnp.where(jax.random.bernoulli(jax.random.key(3), 0.5, (B, T, D)), 1.0, -1.0)
  arrays = (w, u, (200 * signs_BTD).astype(dtype), v.astype(dtype))

  def loss(arrays):
    y_BTD, last = wkv4(*arrays, initial_state(B, D), *masks(), implementation=form)
    assert y_BTD.dtype == dtype
    return jnp.square(y_BTD.astype(jnp.float32)).sum(), (y_BTD, last)

  gradients, (y_BTD, last) = jax.jit(jax.grad(loss, has_aux=True))(arrays)
  for leaf in jax.tree.leaves((gradients, last)):
    assert bool(jnp.isfinite(leaf).all())
  # An average of values cannot leave their range.
  assert float(jnp.abs(y_BTD).max()) <= float(jnp.abs(arrays[3]).max()) * 1.01


@every_form
def test_padding_leaves_the_state_bit_for_bit(form):
  real_BT = jnp.ones((B, T), bool).at[1].set(False)
  _, last = wkv4(*example(), state(), None, real_BT, implementation=form)
  for before, after in zip(state(), last, strict=True):
    np.testing.assert_array_equal(before[1], after[1])
    assert bool((before[0] != after[0]).any())


def test_initial_parameters_depend_on_channel_and_depth_as_published():
  """Numbers of RWKV-v4/src/model.py for layers 0 and 2 of 3, worked out by hand."""
  config = model_config(
    pattern=("rwkv4_time_mix", "rwkv4_channel_mix"), repeats=3, d_model=5, vocab_size=7
  )
  params = jax.jit(init_params, static_argnums=0)(build(config), jax.random.key(0))
  stack = params["stack"]["0"]
  time, channel = stack["0_rwkv4_time_mix"], stack["1_rwkv4_channel_mix"]
  ramp, power = np.arange(5) / 5, lambda x, n: np.power(x, n)
  expected = {
    "time_mix_k": (ramp, power(ramp, 1 / 3)),
    "time_mix_v": (ramp, power(ramp, 1 / 3) + 0.3),
    "time_mix_r": (power(ramp, 1 / 2), power(ramp, 1 / 6)),
    "time_decay": (-5 + 8 * power(np.arange(5) / 4, 0.7), -5 + 8 * power(np.arange(5) / 4, 2.0)),
    "time_first": (np.log(0.3) + np.array([0, 0.5, -0.5, 0, 0.5]),) * 2,
  }
  for name, (first, last) in expected.items():
    np.testing.assert_allclose(time[name][0], first, atol=1e-5)
    np.testing.assert_allclose(time[name][2], last, atol=1e-5)
  for name in ("time_mix_k", "time_mix_r"):
    np.testing.assert_allclose(channel[name][2], power(ramp, 1 / 3), atol=1e-5)
  zero = [time[n]["kernel"] for n in ("key", "receptance", "output")]
  zero += [channel[n]["kernel"] for n in ("receptance", "value")]
  assert not any(np.any(kernel) for kernel in zero)
  assert np.any(time["value"]["kernel"]) and np.any(channel["key"]["kernel"])
