"""Optimizers and schedules: what each parameter receives, and what is compiled in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import config as shared_config
from llm_jax.errors import UserError
from llm_jax.models import build
from llm_jax.models.spec import model_config
from llm_jax.objectives.next_token import NextToken
from llm_jax.training import optimizers, schedules
from llm_jax.training.step import initial_state, make_train_step

AXES = {
  "embed": {"tokens": ("vocab", "embed")},
  "stack": {
    "q": {"kernel": ("layers", "embed", "heads", None), "bias": ("layers", "heads", None)},
    "out": {"kernel": ("layers", "heads", None, "embed")},
    "conv": {"kernel": ("layers", None, "mlp")},
    "norm": {"scale": ("layers", "embed")},
    "A_log": ("layers", "mlp", "state"),
  },
}
SIZES = {"vocab": 160, "embed": 144, "heads": 4, "layers": 3, "mlp": 136, "state": 130}
UNDECAYED = (r".*/(bias|scale)", r".*/A_log")
is_axes = lambda x: isinstance(x, tuple)


def parameters(seed=0):
  """Random arrays of the shapes that AXES and SIZES describe."""
  generator = np.random.default_rng(seed)
  draw = lambda axes: jnp.asarray(
    generator.normal(size=[SIZES.get(axis, 50) for axis in axes]), jnp.float32
  )
  return jax.tree.map(draw, AXES, is_leaf=is_axes)


def options(**changes):
  config = shared_config.base().optimizer
  config.update(clip_norm=0.0, weight_decay=0.0, **changes)
  return config


def update(config, grads, params, axes=AXES):
  """The first update at learning rate 1."""
  optimizer = optimizers.make(config, params, axes, UNDECAYED)

  def first(grads, params):
    return optimizer.update(grads, optimizer.init(params), params, learning_rate=1.0)[0]

  return jax.jit(first)(grads, params)


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_every_optimizer_descends(name):
  target, params = parameters(1), parameters(2)
  optimizer = optimizers.make(options(name=name), params, AXES, UNDECAYED)
  rate = {"sgd": 0.05, "muon": 0.3, "adafactor": 0.1, "adagrad": 0.5}.get(name, 0.05)
  distance = lambda params: sum(
    jnp.mean((x - y) ** 2)
    for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(target), strict=True)
  )

  def step(carry, _):
    params, state = carry
    grads = jax.tree.map(jnp.subtract, params, target)
    updates, state = optimizer.update(grads, state, params, learning_rate=rate)
    return (jax.tree.map(jnp.add, params, updates), state), None

  run = jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), length=60)[0])
  assert distance(run(params)[0]) < 0.1 * distance(params)


@pytest.mark.parametrize("name", ["adafactor", "muon"])
def test_stacked_layers_are_updated_as_if_each_stood_alone(name):
  params, grads = parameters(1), parameters(2)
  grads["stack"] = jax.tree.map(
    lambda g: g * jnp.array([1.0, 10.0, 0.1]).reshape((3,) + (1,) * (g.ndim - 1)), grads["stack"]
  )
  stacked = update(options(name=name), grads, params)["stack"]
  axes = {"stack": jax.tree.map(lambda names: names[1:], AXES["stack"], is_leaf=is_axes)}
  for layer in range(3):
    one = lambda tree, layer=layer: {"stack": jax.tree.map(lambda x: x[layer], tree["stack"])}
    alone = update(options(name=name), one(grads), one(params), axes)["stack"]
    for got, wanted in zip(jax.tree.leaves(stacked), jax.tree.leaves(alone), strict=True):
      np.testing.assert_allclose(got[layer], wanted, rtol=2e-3, atol=2e-4)


def test_muon_orthogonalises_kernels_as_matrices_and_leaves_the_rest_to_adam():
  grads = parameters(2)
  updates = update(options(name="muon"), grads, parameters(1))
  stack = updates["stack"]
  for kernel, shape in ((stack["q"], (3, 144, 200)), (stack["out"], (3, 200, 144))):
    values = np.linalg.svd(np.asarray(kernel["kernel"]).reshape(shape), compute_uv=False)
    # Newton-Schulz in five steps brings singular values near 1; 0.2 sqrt(200) is the scale.
    np.testing.assert_allclose(values / (0.2 * 200**0.5), 1.0, atol=0.4)
  others = (
    (updates["embed"]["tokens"], grads["embed"]["tokens"]),
    *(
      (jax.tree.leaves(stack[name])[0], jax.tree.leaves(grads["stack"][name])[0])
      for name in ("conv", "norm", "A_log")
    ),
  )
  others += ((stack["q"]["bias"], grads["stack"]["q"]["bias"]),)
  for got, grad in others:
    np.testing.assert_allclose(got, -np.sign(grad), atol=0.05)


def test_adafactor_keeps_rows_and_columns_of_each_matrix_only():
  params = {"embed": parameters()["embed"], "stack": {"q": parameters()["stack"]["q"]}}
  axes = {"embed": AXES["embed"], "stack": {"q": AXES["stack"]["q"]}}
  optimizer = optimizers.make(options(name="adafactor"), params, axes, UNDECAYED)
  shapes = {x.shape for x in jax.tree.leaves(jax.eval_shape(optimizer.init, params))}
  assert {(1, 160), (1, 144), (3, 144), (3, 200)} <= shapes
  assert max(np.prod(shape) for shape in shapes) == 3 * 200


def test_the_default_mask_decays_kernels_and_tables_and_nothing_else():
  params = parameters()
  zeros = jax.tree.map(jnp.zeros_like, params)
  config = options()
  config.weight_decay = 0.5
  updates = update(config, zeros, params)
  decayed = {"embed/tokens", "stack/q/kernel", "stack/out/kernel", "stack/conv/kernel"}
  flat = jax.tree_util.tree_flatten_with_path(updates)[0]
  for (path, got), param in zip(flat, jax.tree.leaves(params), strict=True):
    rate = 0.5 if jax.tree_util.keystr(path, simple=True, separator="/") in decayed else 0.0
    np.testing.assert_allclose(got, -rate * param, rtol=1e-6)


def test_the_first_matching_row_of_a_decay_mask_decides_and_every_parameter_needs_one():
  params = parameters()
  mask = optimizers.decay_mask(((".*/q/.*", True), ("stack/.*", False), (".*", True)), params)
  assert mask["stack"]["q"] == {"kernel": True, "bias": True}
  assert mask["embed"]["tokens"] and not mask["stack"]["out"]["kernel"]
  with pytest.raises(UserError, match=r"no row matches embed/tokens, stack/A_log\. "):
    optimizers.decay_mask(((".*/(kernel|bias|scale)", True), ("tokens", True)), params)
  with pytest.raises(UserError, match="decay_mask must be"):
    optimizers.decay_mask((("(", True),), params)


def test_clipping_bounds_the_gradient_and_a_zero_turns_it_off():
  grads, params = parameters(1), parameters(2)
  norm = lambda tree: float(jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree))))
  free = options(name="sgd")
  clipped = options(name="sgd")
  clipped.clip_norm = 2.5
  assert norm(update(free, grads, params)) == pytest.approx(norm(grads), rel=1e-5)
  assert norm(update(clipped, grads, params)) == pytest.approx(2.5, rel=1e-5)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"name": "adamww"}, "Did you mean 'adamw'"),
    ({"b1": 1.0}, "b1 is 1.0"),
    ({"learning_rate": float("nan")}, "learning_rate is nan"),
    ({"accumulation": 0}, "accumulation is 0"),
  ],
)
def test_a_wrong_option_is_refused(change, message):
  with pytest.raises(UserError, match=message):
    optimizers.make(options(**change), parameters(), AXES)


EXPECTED = {  # at step 0, after the warm-up, in the middle of what follows, at the end
  "constant": (0.1, 1.0, 1.0, 1.0),
  "cosine": (0.1, 1.0, 0.55, 0.1),
  "linear": (0.1, 1.0, 0.55, 0.1),
  "wsd": (0.1, 1.0, 1.0, 0.1),
  "inverse_sqrt": (0.1, 1.0, (10 / 55) ** 0.5, 0.1**0.5),
}


@pytest.mark.parametrize("name", schedules.NAMES)
def test_a_schedule_warms_up_and_ends_as_its_config_says(name):
  config = shared_config.base().schedule
  config.update(name=name, warmup_fraction=0.1)
  schedule = schedules.make(config, 3.0, 100)
  rates = [float(schedule(jnp.int32(step))) / 3.0 for step in (0, 9, 54, 99)]
  np.testing.assert_allclose(rates, EXPECTED[name], rtol=1e-5)
  if name == "wsd":
    assert float(schedule(jnp.int32(79))) == pytest.approx(3.0)
    assert float(schedule(jnp.int32(89))) == pytest.approx(3.0 * 0.55)


def test_overlapping_phases_are_refused():
  config = shared_config.base().schedule
  config.update(name="wsd", warmup_fraction=0.9, decay_fraction=0.2)
  with pytest.raises(UserError, match="overlap"):
    schedules.make(config, 1.0, 10)


def test_the_program_is_the_same_for_every_learning_rate_seed_and_length():
  model = build.build(model_config(vocab_size=32, d_model=32, repeats=1))
  batch = {name: jnp.zeros((2, 4), jnp.int32) for name in ("tokens", "segments", "targets")}
  batch["weights"] = jnp.zeros((2, 4))

  def lowered(learning_rate, seed, steps):
    config = shared_config.base()
    config.optimizer.learning_rate = learning_rate
    schedule = schedules.make(config.schedule, learning_rate, steps)
    optimizer = optimizers.make(
      config.optimizer, build.abstract_params(model), build.param_axes(model)
    )
    init = jax.jit(
      lambda key, schedule: initial_state(build.init_params(model, key), optimizer, key, schedule)
    )
    key = jax.random.PRNGKey(seed)
    step = jax.jit(make_train_step(model, NextToken(), optimizer))
    state = jax.eval_shape(init, key, schedule)
    return init.lower(key, schedule).as_text(), step.lower(state, batch).as_text()

  assert lowered(1e-3, 0, 100) == lowered(7e-4, 5, 2000)
