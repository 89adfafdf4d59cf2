"""The diagonal recurrences: every form against its definition, S5 and Mamba against their papers.

Legend: B batch, T position, D model, I inner channel, N state, P stored complex state.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from llm_jax.contract import Context, document_positions
from llm_jax.layers.mamba import Mamba
from llm_jax.layers.s5 import S5
from llm_jax.ops.linear_recurrence import linear_recurrence
from llm_jax.ops.selective_scan import selective_scan

B, INNER, N = 2, 6, 4
RNG = functools.partial(np.random.default_rng, 0)


def close(a, b, tolerance=1e-5):
  scale = max(1.0, float(np.max(np.abs(np.asarray(b, np.complex128)))))
  np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance * scale)


def same_values_and_gradients(form, reference, arguments, tolerance=1e-5):
  """Both functions return (outputs, final state); gradients of a random combination of both."""
  y, final = reference(*arguments)
  weights = [jnp.asarray(RNG().normal(size=a.shape), jnp.float32) for a in (y, final)]

  def value_and_gradients(function):
    def loss(*arguments):
      # A complex result counts with both of its parts.
      parts = zip(function(*arguments), weights, strict=True)
      return sum(jnp.sum((a.real + 0.5 * a.imag).astype(jnp.float32) * w) for a, w in parts)

    gradient = jax.grad(loss, argnums=tuple(range(len(arguments))))
    return jax.jit(lambda *a: (function(*a), gradient(*a)))(*arguments)

  outputs, gradients = value_and_gradients(form)
  expected, expected_gradients = value_and_gradients(reference)
  for a, b in zip(outputs + gradients, expected + expected_gradients, strict=True):
    assert bool(jnp.isfinite(a).all()) and a.dtype == b.dtype
    close(a.astype(jnp.float32) if a.dtype == jnp.bfloat16 else a, b, tolerance)
  return outputs


def recurrence_arguments(length, kind):
  """Decays with a document start (0) and padding (decay 1, input 0), inputs, initial state."""
  rng = RNG()

  def draw(*shape):
    imaginary = 1j * rng.normal(size=shape) if kind == "complex" else 0
    return rng.normal(size=shape) + imaginary

  decay = draw(B, length, N)
  decay *= rng.uniform(0.2, 1, decay.shape) / np.abs(decay)
  inputs = draw(B, length, N)
  decay[0, length // 2] = 0
  decay[1, -1], inputs[1, -1] = 1, 0
  dtype = jnp.complex64 if kind == "complex" else jnp.float32
  return [jnp.asarray(a, dtype) for a in (decay, inputs, draw(B, N))]


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("length", [1, 37])
def test_the_parallel_recurrence_equals_the_sequential_one(kind, length):
  arguments = recurrence_arguments(length, kind)
  sequential = functools.partial(linear_recurrence, implementation="reference")
  parallel = functools.partial(linear_recurrence, implementation="associative")
  h_BTN, final_BN = same_values_and_gradients(parallel, sequential, arguments)
  decay, inputs, state = (np.asarray(a, np.complex128) for a in arguments)
  for t in range(length):
    state = decay[:, t] * state + inputs[:, t]
    close(h_BTN[:, t], state)
  close(final_BN, state)


def test_a_recurrence_of_half_precision_inputs_runs_in_float32():
  arguments = [a.astype(jnp.bfloat16) for a in recurrence_arguments(37, "real")]
  for form in ("reference", "associative"):
    h_BTN, final_BN = linear_recurrence(*arguments, implementation=form)
    assert h_BTN.dtype == final_BN.dtype == jnp.float32
    close(h_BTN, linear_recurrence(*(a.astype(jnp.float32) for a in arguments))[0])


def test_a_recurrence_survives_strong_decays_over_long_rows():
  inputs_BTN = jnp.asarray(RNG().normal(size=(1, 4096, 2)), jnp.float32)
  decay_BTN = jnp.broadcast_to(jnp.array([1e-8, 1e-30]), inputs_BTN.shape)
  same_values_and_gradients(
    functools.partial(linear_recurrence, implementation="associative"),
    functools.partial(linear_recurrence, implementation="reference"),
    (decay_BTN, inputs_BTN, jnp.ones((1, 2))),
  )


def scan_arguments(length, dtype=jnp.float32):
  """Row 0 packs two documents, row 1 ends with padding (dt = 0); the initial state is not zero."""
  rng = RNG()
  dt_BTI = rng.uniform(0.01, 1, (B, length, INNER))
  dt_BTI[1, length - length // 4 :] = 0
  tokens = rng.normal(size=(B, length, INNER)), dt_BTI
  maps = rng.normal(size=(B, length, N)), rng.normal(size=(B, length, N))
  A_NI = -rng.uniform(0.1, 4, (N, INNER))
  x, dt, b, c = (jnp.asarray(a, dtype) for a in (*tokens, *maps))
  initial_BNI = jnp.asarray(rng.normal(size=(B, N, INNER)), jnp.float32)
  reset_BT = jnp.zeros((B, length), bool).at[0, length // 2].set(True)
  return (x, dt, jnp.asarray(A_NI, jnp.float32), b, c, initial_BNI), reset_BT


@pytest.mark.parametrize("form", ["associative", "chunked"])
@pytest.mark.parametrize("length", [1, 8, 37])
def test_the_fast_selective_scans_equal_the_sequential_one(form, length):
  arguments, reset_BT = scan_arguments(length)
  scan = functools.partial(selective_scan, reset_BT=reset_BT)
  same_values_and_gradients(
    functools.partial(scan, implementation=form),
    functools.partial(scan, implementation="reference"),
    arguments,
  )


@pytest.mark.parametrize("form", ["reference", "chunked"])
def test_the_selective_scan_resets_passes_over_padding_and_continues(form):
  (x, dt, A, b, c, initial), reset_BT = scan_arguments(37)
  scan = functools.partial(selective_scan, implementation=form)
  whole, final = scan(x, dt, A, b, c, initial, reset_BT=reset_BT)
  start, end = 37 // 2, 37 - 37 // 4
  second, _ = scan(x[:1, start:], dt[:1, start:], A, b[:1, start:], c[:1, start:])
  close(whole[:1, start:], second)
  _, before = scan(x[1:, :end], dt[1:, :end], A, b[1:, :end], c[1:, :end], initial[1:])
  np.testing.assert_array_equal(final[1:], before)
  cut = 13
  first, state = scan(x[:, :cut], dt[:, :cut], A, b[:, :cut], c[:, :cut], initial)
  rest = (x[:, cut:], dt[:, cut:], A, b[:, cut:], c[:, cut:], state)
  second, last = scan(*rest, reset_BT=reset_BT[:, cut:])
  close(whole, jnp.concatenate([first, second], axis=1))
  close(final, last)


@pytest.mark.parametrize("form", ["associative", "chunked"])
def test_the_selective_scan_survives_strong_decays_over_long_rows(form):
  rng, length = RNG(), 4096
  x, b, c = (jnp.asarray(rng.normal(size=(1, length, n)), jnp.float32) for n in (2, 3, 3))
  A_NI = jnp.array([[-18.4, -200.0]] * 3)  # decays of 1e-8, and of 0 in float32
  arguments = x, jnp.ones_like(x), A_NI, b, c, jnp.ones((1, 3, 2))
  same_values_and_gradients(
    functools.partial(selective_scan, implementation=form),
    functools.partial(selective_scan, implementation="reference"),
    arguments,
  )


@pytest.mark.parametrize("form", ["associative", "chunked"])
def test_the_selective_scan_takes_half_precision_inputs(form):
  arguments, reset_BT = scan_arguments(37, jnp.bfloat16)
  scan = functools.partial(selective_scan, reset_BT=reset_BT)
  (y_BTI, final_BNI) = same_values_and_gradients(
    functools.partial(scan, implementation=form),
    functools.partial(scan, implementation="reference"),
    arguments,
    1e-2,
  )
  assert y_BTI.dtype == jnp.bfloat16 and final_BNI.dtype == jnp.float32
  full = scan(*(a.astype(jnp.float32) for a in arguments), implementation="reference")
  close(final_BNI, full[1])  # half precision ends at the inputs


def test_the_chunked_scan_keeps_one_state_a_chunk_for_its_gradient():
  def temporaries(form, length):
    wide = jax.ShapeDtypeStruct((1, length, 128), jnp.float32)
    maps = jax.ShapeDtypeStruct((1, length, 16), jnp.float32)
    A_NI = jax.ShapeDtypeStruct((16, 128), jnp.float32)
    loss = lambda *a: selective_scan(*a, implementation=form)[0].sum()
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3, 4)))
    compiled = gradient.lower(wide, wide, A_NI, maps, maps).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  short, long = temporaries("chunked", 256), temporaries("chunked", 512)
  assert long < 2.1 * short
  assert long < temporaries("reference", 512) / 4


def built(layer, x_BTD, context, noise=0.05):
  """Parameters of a layer, perturbed by noise, as float64 arrays and as float32 ones."""
  params = nn.unbox(jax.jit(layer.init)(jax.random.key(0), x_BTD, context)["params"])
  leaves, tree = jax.tree.flatten(params)
  rng = RNG()
  leaves = [np.asarray(p, np.float64) + noise * rng.normal(size=p.shape) for p in leaves]
  exact = jax.tree.unflatten(tree, leaves)
  return exact, jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), exact)


def whole_row(length, d_model):
  x_BTD = jnp.asarray(RNG().normal(size=(B, length, d_model)), jnp.float32)
  segments_BT = jnp.ones((B, length), jnp.int32)
  return x_BTD, Context(document_positions(segments_BT), segments_BT)


def sigmoid(a):
  return 1 / (1 + np.exp(-a))


@pytest.mark.parametrize("gate", ["half", "full"])
def test_s5_is_the_convolution_with_its_materialised_kernel(gate):
  length, d_model = 40, 5
  layer = S5(d_state=8, blocks=2, gate=gate)
  x_BTD, context = whole_row(length, d_model)
  p, params = built(layer, x_BTD, context)
  y_BTD, _ = jax.jit(layer.apply)({"params": params}, x_BTD, context)

  lam, step = p["Lambda_re"] + 1j * p["Lambda_im"], np.exp(p["log_step"])
  b, c = p["B_re"] + 1j * p["B_im"], p["C_re"] + 1j * p["C_im"]
  hold = (np.exp(lam * step) - 1) / lam
  powers_TP = np.exp(lam * step * np.arange(length)[:, None])
  kernel_TDE = 2 * np.einsum("dp,tp,pe->tde", b * hold, powers_TP, c).real
  kernel_TDE[0] += np.diag(p["D"])
  x = np.asarray(x_BTD, np.float64)
  y = np.zeros_like(x)
  for lag in range(length):
    y[:, lag:] += x[:, : length - lag] @ kernel_TDE[lag]
  g = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
  value = g if gate == "half" else g @ p["out_proj"]["kernel"] + p["out_proj"]["bias"]
  close(y_BTD, value * sigmoid(g @ p["gate_proj"]["kernel"] + p["gate_proj"]["bias"]), 2e-5)


def test_s5_starts_from_the_normal_part_of_hippo():
  params, _ = built(S5(d_state=32, blocks=2), *whole_row(3, 4), noise=0)
  size = 16
  hippo = -np.array(
    [
      [(n > k) * np.sqrt((2 * n + 1) * (2 * k + 1)) + (n == k) * (n + 1) for k in range(size)]
      for n in range(size)
    ]
  )
  low_rank = np.sqrt(np.arange(size) + 0.5)
  eigenvalues = np.linalg.eigvals(hippo + np.outer(low_rank, low_rank))
  half = np.sort(eigenvalues.imag)[: size // 2]
  close(eigenvalues.real, np.full(size, -0.5))
  close(params["Lambda_re"], np.full(size, -0.5))
  close(params["Lambda_im"], np.tile(half, 2))
  step = np.exp(params["log_step"])
  assert step.min() >= 1e-3 and step.max() <= 0.1


def test_mamba_is_algorithm_2_of_its_paper():
  length, d_model = 11, 6
  layer = Mamba(d_state=3, d_conv=4, dt_rank=2)
  x_BTD, context = whole_row(length, d_model)
  p, params = built(layer, x_BTD, context)
  y_BTD, _ = jax.jit(layer.apply)({"params": params}, x_BTD, context)

  silu = lambda a: a * sigmoid(a)
  for row, u in enumerate(np.asarray(x_BTD, np.float64)):
    x, z = u @ p["in_proj"]["kernel"][:, 0], u @ p["in_proj"]["kernel"][:, 1]
    past = np.concatenate([np.zeros((3, 2 * d_model)), x])
    taps = np.stack([past[t : t + 4] for t in range(length)])
    x = silu((taps * p["conv1d"]["kernel"]).sum(1) + p["conv1d"]["bias"])
    low, b, c = np.split(x @ p["x_proj"]["kernel"], [2, 5], axis=-1)
    dt = np.log1p(np.exp(low @ p["dt_proj"]["kernel"] + p["dt_proj"]["bias"]))
    h, y = np.zeros((2 * d_model, 3)), np.zeros_like(x)
    for t in range(length):
      h = np.exp(-dt[t][:, None] * np.exp(p["A_log"])) * h + np.outer(dt[t] * x[t], b[t])
      y[t] = h @ c[t] + p["D"] * x[t]
    close(y_BTD[row], (y * silu(z)) @ p["out_proj"]["kernel"])


def test_mamba_starts_from_the_published_values():
  params, _ = built(Mamba(), *whole_row(3, 256), noise=0)
  dt = np.log1p(np.exp(params["dt_proj"]["bias"]))
  assert dt.min() > 0.99e-3 and dt.max() < 0.101
  assert abs(np.log(dt).mean() - np.log(1e-2)) < 0.15  # even on a log scale
  bound = np.abs(params["dt_proj"]["kernel"]).max()
  assert 0.24 < bound <= 0.25  # rank 16
  close(np.exp(params["A_log"]), np.tile(np.arange(1, 17), (512, 1)))
