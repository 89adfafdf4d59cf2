"""The layer contract, on every file in `llm_jax/layers`, found on disk.

Each layer is built knowing nothing but its name, on packed rows with a memory beside them, with
every parameter perturbed so that no branch is silent.

Legend: B batch, T position, S memory position, D model.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from llm_jax.contract import Context, document_positions
from llm_jax.models.spec import layer_class, layer_fields, layer_names
from llm_jax.modules import NORMS, Norm

B, T, S, D = 2, 21, 5, 32
LAYERS = layer_names()
every_layer = pytest.mark.parametrize("name", LAYERS)


def context_of(segments_BT, start_B=None, memory_segments=None):
  """A context whose memory is the same for every call: row b's memory differs from row c's."""
  rows = segments_BT.shape[0]
  if start_B is None:
    positions_BT = document_positions(segments_BT)
  else:
    count_BT = jnp.cumsum(segments_BT > 0, axis=1) - 1
    positions_BT = jnp.where(segments_BT > 0, start_B[:, None] + count_BT, -1)
  memory_BSD = jax.random.normal(jax.random.key(7), (8, S, D))[:rows]
  if memory_segments is None:
    memory_segments = jnp.ones((rows, S), jnp.int32)
  return Context(
    positions_BT.astype(jnp.int32),
    segments_BT,
    memory_BSD=memory_BSD,
    memory_segments_BS=memory_segments,
    num_blocks=2,
    depth=1,
  )


@functools.cache
def built(name, **fields):
  """The layer, its perturbed parameters, and its jitted call."""
  layer = layer_class(name)(**fields)
  x_BTD = jnp.zeros((B, 3, D))
  init = jax.jit(layer.init)  # of which XLA leaves out all but the parameters
  variables = init(jax.random.key(0), x_BTD, context_of(jnp.ones((B, 3), jnp.int32)))
  leaves, tree = jax.tree.flatten(nn.unbox(variables["params"]))
  keys = jax.random.split(jax.random.key(1), len(leaves))
  noisy = [
    p + 0.1 * jax.random.normal(k, p.shape, p.dtype) for p, k in zip(leaves, keys, strict=True)
  ]

  @jax.jit
  def call(params, x_BTD, context, state=None):
    return layer.apply({"params": params}, x_BTD, context, state)[:2]

  return layer, jax.tree.unflatten(tree, noisy), call


def inputs(rows=B, length=T):
  return jax.random.normal(jax.random.key(2), (rows, length, D))


def ones(rows=B, length=T):
  return jnp.ones((rows, length), jnp.int32)


def close(a, b, tolerance=2e-5):
  a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
  np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


def run_in_chunks(name, x_BTD, sizes):
  """Feeds x in chunks of the given sizes through the state; outputs joined, last state."""
  layer, params, call = built(name)
  state = layer.initial_state(x_BTD.shape[0], T + 3, S, D, jnp.float32)
  start, parts = 0, []
  for size in sizes:
    rows = x_BTD.shape[0]
    context = context_of(ones(rows, size), jnp.full((rows,), start))
    if start:  # later chunks read the memory from the state
      context = context.replace(memory_BSD=None)
    y, state = call(params, x_BTD[:, start : start + size], context, state)
    parts.append(y)
    start += size
  return jnp.concatenate(parts, axis=1), state


@every_layer
def test_no_token_sees_a_later_one(name):
  _, params, call = built(name)
  x_BTD, middle = inputs(), T // 2
  y_BTD, _ = call(params, x_BTD, context_of(ones()))
  later, _ = call(params, x_BTD.at[:, middle + 1 :].multiply(-3.0), context_of(ones()))
  own, _ = call(params, x_BTD.at[:, middle].multiply(-3.0), context_of(ones()))
  close(y_BTD[:, : middle + 1], later[:, : middle + 1], 1e-6)
  assert float(jnp.abs(y_BTD - own)[:, middle].max()) > 1e-3


@every_layer
def test_whole_chunked_and_stepwise_agree(name):
  _, params, call = built(name)
  x_BTD = inputs()
  whole, no_state = call(params, x_BTD, context_of(ones()))
  assert no_state is None
  once, state_once = run_in_chunks(name, x_BTD, [T])
  chunked, state_chunked = run_in_chunks(name, x_BTD, [8, 1, 5, T - 14])
  stepwise, state_stepwise = run_in_chunks(name, x_BTD, [1] * T)
  for y in (once, chunked, stepwise):
    close(whole, y)
  for state in (state_chunked, state_stepwise):
    jax.tree.map(close, state_once, state)


@every_layer
def test_a_call_keeps_the_structure_and_types_of_the_state(name):
  layer, *_ = built(name)
  before = layer.initial_state(B, T + 3, S, D, jnp.float32)
  _, after = run_in_chunks(name, inputs(length=4), [3, 1])
  shapes = functools.partial(jax.tree.map, lambda a: (a.shape, a.dtype))
  assert shapes(before) == shapes(after)


@every_layer
@pytest.mark.parametrize("left", [3, 0], ids=["left", "right"])
def test_padding_changes_nothing_in_training(name, left):
  _, params, call = built(name)
  x_BTD, right = inputs(length=9), 4 - left
  padded = jnp.pad(x_BTD, ((0, 0), (left, right), (0, 0)), constant_values=3.0)
  segments = jnp.pad(ones(length=9), ((0, 0), (left, right)))
  plain, _ = call(params, x_BTD, context_of(ones(length=9)))
  y, _ = call(params, padded, context_of(segments))
  close(plain, y[:, left : left + 9])
  assert bool(jnp.isfinite(y).all())


@every_layer
@pytest.mark.parametrize("left", [3, 0], ids=["left", "right"])
def test_padding_changes_nothing_with_a_state(name, left):
  """Two chunks, the second one padded: a ragged batch that goes on after a first prompt."""
  _, params, call = built(name)
  x_BTD, right = inputs(length=9), 4 - left
  plain, last = run_in_chunks(name, x_BTD, [4, 5])
  _, state = run_in_chunks(name, x_BTD[:, :4], [4])
  padded = jnp.pad(x_BTD[:, 4:], ((0, 0), (left, right), (0, 0)), constant_values=3.0)
  segments = jnp.pad(ones(length=5), ((0, 0), (left, right)))
  context = context_of(segments, jnp.full((B,), 4)).replace(memory_BSD=None)
  y, padded_last = call(params, padded, context, state)
  close(plain[:, 4:], y[:, left : left + 5])
  jax.tree.map(close, last, padded_last)


@every_layer
@pytest.mark.parametrize("length", [1, 6])
def test_a_row_of_padding_leaves_its_state_bit_for_bit(name, length):
  _, params, call = built(name)
  _, state = run_in_chunks(name, inputs(length=4), [4])
  segments = ones(length=length).at[0].set(0)
  context = context_of(segments, jnp.full((B,), 4)).replace(memory_BSD=None)
  _, after = call(params, inputs(length=length), context, state)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), state, after)


@every_layer
def test_packed_documents_equal_separate_ones(name):
  _, params, call = built(name)
  x_BTD, lengths = inputs(rows=1), (8, 1, 9)
  segments = np.zeros((1, T), np.int32)
  memory_segments = np.array([[1, 1, 2, 3, 3]], np.int32)
  start = 0
  for number, length in enumerate(lengths, start=1):
    segments[:, start : start + length] = number
    start += length
  context = context_of(jnp.asarray(segments), memory_segments=jnp.asarray(memory_segments))
  packed, _ = call(params, x_BTD, context)
  start = 0
  for number, length in enumerate(lengths, start=1):
    own = jnp.asarray((memory_segments == number).astype(np.int32))
    document = x_BTD[:, start : start + length]
    alone, _ = call(params, document, context_of(ones(1, length), memory_segments=own))
    close(packed[:, start : start + length], alone)
    start += length


@every_layer
def test_rows_of_a_batch_do_not_see_each_other(name):
  _, params, call = built(name)
  x_BTD = inputs()
  both, _ = call(params, x_BTD, context_of(ones()))
  changed, _ = call(params, x_BTD.at[1].multiply(-3.0), context_of(ones()))
  close(both[0], changed[0], 1e-6)
  assert float(jnp.abs(both[1] - changed[1]).max()) > 1e-3


@every_layer
def test_a_state_can_be_reordered(name):
  """Beam search: rows swap their states, and go on as if they had swapped their pasts."""
  _, params, call = built(name)
  x_BTD = inputs(length=6)
  _, state = run_in_chunks(name, x_BTD[:, :5], [5])
  swapped = jax.tree.map(lambda a: a[::-1], state)
  context = context_of(ones(length=1), jnp.full((B,), 5)).replace(memory_BSD=None)
  y, _ = call(params, x_BTD[:, 5:], context, state)
  z, _ = call(params, x_BTD[::-1, 5:], context, swapped)
  close(y, z[::-1])


@every_layer
def test_bfloat16_gradients_are_finite(name):
  _, params, call = built(name)
  x_BTD = inputs().astype(jnp.bfloat16)

  def loss(params, x_BTD):
    y_BTD, _ = call(params, x_BTD, context_of(ones()))
    assert y_BTD.dtype == jnp.bfloat16
    return jnp.square(y_BTD.astype(jnp.float32)).sum()

  gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x_BTD)
  for path, g in jax.tree_util.tree_leaves_with_path(gradients):
    assert bool(jnp.isfinite(g).all()), jax.tree_util.keystr(path)
  flat = jax.tree_util.tree_leaves_with_path(gradients[0])
  silent = [jax.tree_util.keystr(path) for path, g in flat if not jnp.any(g)]
  # A key bias moves all scores of a query alike, so that its true gradient is zero.
  assert [path for path in silent if "['k']['bias']" not in path] == []


def assert_stored_dtype_is_only_storage(call, params):
  """The same from bfloat16 as from float32 arrays of the same numbers: what is computed of
  parameters themselves, such as exponentials of decays, is float32 however a file keeps them."""
  low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
  same = jax.tree.map(lambda p: p.astype(jnp.float32), low)
  # Otherwise XLA may leave out a rounding to bfloat16 that another machine does not.
  exact = jax.jit(call, compiler_options={"xla_allow_excess_precision": False})
  close(exact(low), call(same), 1e-5)


@every_layer
def test_parameters_kept_in_bfloat16_are_computed_with_in_float32(name):
  _, params, call = built(name)
  x_BTD, context = 4 * inputs(length=9), context_of(ones(length=9))
  assert_stored_dtype_is_only_storage(lambda params: call(params, x_BTD, context)[0], params)


@pytest.mark.parametrize("kind", NORMS)
def test_norms_kept_in_bfloat16_are_computed_with_in_float32(kind):
  norm, x_BTD = Norm(kind), inputs(length=9)
  shapes = jax.eval_shape(norm.init, jax.random.key(0), x_BTD)["params"]
  params = jax.tree.map(lambda p: 0.1 * jax.random.normal(jax.random.key(1), p.shape), shapes)
  assert_stored_dtype_is_only_storage(
    lambda params: norm.apply({"params": params}, x_BTD), nn.unbox(params)
  )


WITH_FORMS = [name for name in LAYERS if "implementation" in layer_fields(name)]


@pytest.mark.parametrize("name", WITH_FORMS)
def test_the_form_taken_equals_the_reference_in_value_and_gradient(name):
  length = 160  # long enough for the forms that "auto" takes on real lengths
  x_BTD = inputs(length=length)
  segments = jnp.where(jnp.arange(length) < 100, 1, 2)[None].repeat(B, 0)
  memory_segments = jnp.array([[1, 1, 2, 2, 2]] * B)
  weights = jax.random.normal(jax.random.key(3), x_BTD.shape)

  def value_and_gradients(form):
    _, params, call = built(name, implementation=form)
    context = context_of(segments, memory_segments=memory_segments)

    def loss(params, x_BTD):
      y_BTD, _ = call(params, x_BTD, context)
      return (y_BTD * weights).sum(), y_BTD

    gradients, y_BTD = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x_BTD)
    return y_BTD, gradients

  y, gradients = value_and_gradients("auto")
  y_reference, gradients_reference = value_and_gradients("reference")
  close(y, y_reference)
  for g, r in zip(jax.tree.leaves(gradients), jax.tree.leaves(gradients_reference), strict=True):
    close(g, r, 1e-4 * max(1.0, float(jnp.abs(r).max())))


@pytest.mark.parametrize("name", WITH_FORMS)
def test_an_unknown_form_is_refused(name):
  layer = layer_class(name)(implementation="fastest")
  with pytest.raises(Exception, match="fastest"):
    layer.init(jax.random.key(0), inputs(), context_of(ones()))


@every_layer
def test_every_parameter_names_its_logical_axes(name):
  known = {"embed", "heads", "kv", "mlp", "expert", "vocab", "state", "layers", None}
  layer, *_ = built(name)
  boxed = jax.eval_shape(layer.init, jax.random.key(0), inputs(), context_of(ones()))["params"]
  is_box = lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
  for path, leaf in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_box):
    assert is_box(leaf), f"{name}: {jax.tree_util.keystr(path)} carries no logical axes"
    assert set(leaf.names) <= known
    assert len(leaf.names) == leaf.value.ndim
    assert not jnp.iscomplexobj(leaf.value)
