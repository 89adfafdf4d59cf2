"""S4D against the convolution with its kernel; S4D and S5 against a solver of their equations.

Legend: B batch, T position, D model, P stored complex states.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.integrate import solve_ivp
from scipy.special import erf

from llm_jax.contract import Context, document_positions
from llm_jax.errors import UserError
from llm_jax.layers.s4d import S4d
from llm_jax.layers.s5 import S5

D = 3


def run(layer, x_BTD, segments_BT=None, **replaced):
  """Perturbed parameters as float64 arrays, and what the layer makes of x with them."""
  if segments_BT is None:
    segments_BT = jnp.ones(x_BTD.shape[:2], jnp.int32)
  context = Context(document_positions(segments_BT), segments_BT)
  x_BTD = jnp.asarray(x_BTD, jnp.float32)
  init = functools.partial(layer.init, jax.random.key(0))
  params = nn.unbox(jax.jit(init)(x_BTD[:1, :2], Context(*jnp.zeros((2, 1, 2), int)))["params"])
  rng = np.random.default_rng(1)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64) + 0.1 * rng.normal(size=p.shape), params)
  exact |= {name: np.full_like(exact[name], value) for name, value in replaced.items()}
  params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), exact)
  y_BTD, _ = jax.jit(layer.apply)({"params": params}, x_BTD, context)
  return exact, np.asarray(y_BTD, np.float64)


def sigmoid(a):
  return 1 / (1 + np.exp(-a))


def glu(p, y):
  """What S4D does with the state space model's output."""
  g = 0.5 * y * (1 + erf(y / np.sqrt(2)))
  kernel, bias = p["out_proj"]["kernel"], p["out_proj"]["bias"]
  return (g @ kernel[:, 0] + bias[0]) * sigmoid(g @ kernel[:, 1] + bias[1])


def half_gate(p, y):
  """What S5 does with it."""
  g = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
  return g * sigmoid(g @ p["gate_proj"]["kernel"] + p["gate_proj"]["bias"])


def s4d_system(p):
  return -np.exp(p["log_A_re"]) + 1j * p["A_im"], p["C_re"] + 1j * p["C_im"]


def test_s4d_is_the_convolution_with_its_materialised_kernel():
  """Two documents in a row, each of which sees its own past alone."""
  length, start = 40, 23
  x_BTD = np.random.default_rng(0).normal(size=(2, length, D))
  segments_BT = jnp.ones((2, length), jnp.int32).at[:, start:].set(2)
  p, found_BTD = run(S4d(d_state=8), x_BTD, segments_BT, log_step=np.log([0.01, 0.1, 1.0]))

  A_DP, C_DP = s4d_system(p)
  z_DP = A_DP * np.exp(p["log_step"])[:, None]
  decay_DP, hold_DP = np.exp(z_DP), (np.exp(z_DP) - 1) / A_DP
  powers_TDP = decay_DP ** np.arange(length)[:, None, None]
  kernel_TD = 2 * np.einsum("dp,tdp->td", C_DP * hold_DP, powers_TDP).real
  for document in (slice(0, start), slice(start, length)):
    x = x_BTD[:, document]
    y = p["D"] * x
    for lag in range(x.shape[1]):
      y[:, lag:] += kernel_TD[lag] * x[:, : x.shape[1] - lag]
    np.testing.assert_allclose(found_BTD[:, document], glu(p, y), atol=2e-5)


def u(t):
  """A smooth input of D channels."""
  return np.stack([np.cos(3 * t), np.sin(5 * t + 1), np.exp(-t)], axis=-1)


def s4d_against_solver(step):
  times_T = step * np.arange(1, round(1 / step) + 1)
  middles_TD = u(times_T - step / 2)
  p, found_BTD = run(S4d(d_state=8), middles_TD[None], log_step=np.log(step))
  A_DP, C_DP = s4d_system(p)
  slope = lambda t, h: (A_DP * h.reshape(A_DP.shape) + u(t)[:, None]).reshape(-1)
  h_TDP = solved(slope, A_DP.size, times_T).reshape(-1, *A_DP.shape)
  y_TD = 2 * np.einsum("dp,tdp->td", C_DP, h_TDP).real + p["D"] * middles_TD
  return np.abs(found_BTD[0] - glu(p, y_TD)).max()


def s5_against_solver(step):
  times_T = step * np.arange(1, round(1 / step) + 1)
  middles_TD = u(times_T - step / 2)
  p, found_BTD = run(S5(d_state=8, blocks=1), middles_TD[None], log_step=np.log(step))
  A_P, B_DP = p["Lambda_re"] + 1j * p["Lambda_im"], p["B_re"] + 1j * p["B_im"]
  h_TP = solved(lambda t, h: A_P * h + u(t) @ B_DP, A_P.size, times_T)
  y_TD = 2 * (h_TP @ (p["C_re"] + 1j * p["C_im"])).real + p["D"] * middles_TD
  return np.abs(found_BTD[0] - half_gate(p, y_TD)).max()


def solved(slope, states, times_T):
  """h at those times, from 0 at time 0."""
  zeros = np.zeros(states, np.complex128)
  solution = solve_ivp(
    slope, (0, times_T[-1]), zeros, "DOP853", t_eval=times_T, rtol=1e-9, atol=1e-11
  )
  return solution.y.T


@pytest.mark.parametrize("error", [s4d_against_solver, s5_against_solver])
def test_fed_the_middle_of_each_step_the_layer_solves_its_equation_to_second_order(error):
  coarse, fine = error(0.04), error(0.02)
  assert 3.4 < coarse / fine < 4.6
  assert 1e-5 < fine < 5e-3


def test_s4d_starts_from_the_published_values():
  layer = S4d(d_state=64)
  context = Context(*jnp.zeros((2, 1, 2), int))
  shape = (1, 2, 256)
  p = nn.unbox(jax.jit(layer.init)(jax.random.key(0), jnp.zeros(shape), context)["params"])
  np.testing.assert_allclose(p["A_im"], np.tile(np.pi * np.arange(32), (256, 1)), rtol=1e-6)
  np.testing.assert_allclose(np.exp(p["log_A_re"]), 0.5, rtol=1e-6)
  assert abs(np.square(p["C_re"]).mean() - 0.5) < 0.03
  step = np.exp(p["log_step"])
  assert 0.99e-3 < step.min() < 2e-3 and 0.05 < step.max() < 0.101
  assert abs(np.log(step).mean() - np.log(1e-2)) < 0.3  # even on a log scale


def test_an_odd_number_of_states_is_refused_by_s4d():
  with pytest.raises(UserError, match="found 7"):
    S4d(d_state=7).init(
      jax.random.key(0), jnp.zeros((1, 2, D)), Context(*jnp.zeros((2, 1, 2), int))
    )
