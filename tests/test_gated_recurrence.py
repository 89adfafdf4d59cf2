"""LSTM and GRU: against a step written from torch's formulas, and the fast form against autodiff.

Legend: B batch, T position, G gates, H hidden.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.ops.gated_recurrence import gru, lstm

B, T, H = 3, 11, 5
OPS = {
  "lstm": (jax.jit(lstm, static_argnames="implementation"), 4, 2),
  "gru": (jax.jit(gru, static_argnames="implementation"), 3, 1),
}
every_op = pytest.mark.parametrize("name", OPS)


def example(name):
  """Inputs, kernel, bias and a state that is not zero."""
  _, gates, parts = OPS[name]
  keys = jax.random.split(jax.random.key(0), 3 + parts)
  return (
    jax.random.normal(keys[0], (B, T, gates, H)),
    jax.random.normal(keys[1], (H, gates, H)),
    jax.random.normal(keys[2], (gates, H)),
    tuple(jax.random.normal(k, (B, H)) for k in keys[3:]),
  )


def masks():
  """Documents that start at a row's first token, inside it, right after padding and nowhere."""
  starts, real = np.zeros((B, T), bool), np.ones((B, T), bool)
  real[0, :2] = real[1, -3:] = False
  starts[0, 2] = starts[0, 7] = starts[1, 0] = starts[1, 1] = True
  return jnp.asarray(starts), jnp.asarray(real)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def torch_step(name, inputs_BGH, recurrent_HGH, bias_GH, state):
  """One step as the documentation of torch.nn.LSTM and torch.nn.GRU writes it."""
  if name == "lstm":
    h, c = state
    gate = lambda n: inputs_BGH[:, n] + h @ recurrent_HGH[:, n] + bias_GH[n]
    c = sigmoid(gate(1)) * c + sigmoid(gate(0)) * np.tanh(gate(2))
    return sigmoid(gate(3)) * np.tanh(c), c
  (h,) = state
  hidden = lambda n: h @ recurrent_HGH[:, n] + bias_GH[n]
  r, z = (sigmoid(inputs_BGH[:, n] + hidden(n)) for n in (0, 1))
  return ((1 - z) * np.tanh(inputs_BGH[:, 2] + r * hidden(2)) + z * h,)


@every_op
@pytest.mark.parametrize("form", ["reference", "batched_gradient"])
def test_each_step_is_torchs(name, form):
  op = OPS[name][0]
  inputs, kernel, bias, state = example(name)
  starts, real = masks()
  h_BTH, last = op(inputs, kernel, bias, state, starts, real, implementation=form)
  inputs, kernel, bias = (np.asarray(a, np.float64) for a in (inputs, kernel, bias))
  state = [np.asarray(a, np.float64) for a in state]
  for t in range(T):
    state = [np.where(starts[:, t, None], 0, a) for a in state]
    new = torch_step(name, inputs[:, t], kernel, bias, state)
    state = [np.where(real[:, t, None], n, a) for n, a in zip(new, state, strict=True)]
    np.testing.assert_allclose(h_BTH[:, t], state[0], atol=1e-6)
  for a, b in zip(last, state, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


@every_op
def test_the_written_gradient_is_autodiffs(name):
  op = OPS[name][0]
  weights_BTH = jax.random.normal(jax.random.key(1), (B, T, H))

  def loss(form):
    def of(inputs, kernel, bias, state):
      h_BTH, last = op(inputs, kernel, bias, state, *masks(), implementation=form)
      return (h_BTH * weights_BTH).sum() + sum(
        (a * weights_BTH[:, n]).sum() for n, a in enumerate(last)
      )

    return jax.jit(jax.value_and_grad(of, argnums=(0, 1, 2, 3)))

  fast, slow = (loss(form)(*example(name)) for form in ("batched_gradient", "reference"))
  for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(slow), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5)
  assert all(np.abs(leaf).max() > 1e-2 for leaf in jax.tree.leaves(slow))


@every_op
def test_bfloat16_inputs_keep_a_float32_state(name):
  op = OPS[name][0]
  inputs, kernel, bias, state = example(name)
  exact, _ = op(inputs, kernel, bias, state, *masks())
  rounded = inputs.astype(jnp.bfloat16)
  h_BTH, last = op(rounded, kernel, bias, state, *masks())
  assert h_BTH.dtype == jnp.bfloat16
  assert all(a.dtype == jnp.float32 for a in last)
  np.testing.assert_allclose(h_BTH.astype(jnp.float32), exact, atol=0.1)
  loss = lambda x, w: op(x, w, bias, state)[0].astype(jnp.float32).sum()
  dinputs, dkernel = jax.jit(jax.grad(loss, (0, 1)))(rounded, kernel)
  assert (dinputs.dtype, dkernel.dtype) == (jnp.bfloat16, jnp.float32)
