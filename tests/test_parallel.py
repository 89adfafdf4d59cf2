"""One loss curve, however a step is spread over devices, micro-batches and processes."""

import logging
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from llm_jax import config as shared_config
from llm_jax.errors import UserError
from llm_jax.models import build
from llm_jax.models.output import Output
from llm_jax.models.spec import model_config
from llm_jax.objectives.next_token import NextToken
from llm_jax.training import optimizers, schedules, strategies
from llm_jax.training.step import initial_state, make_train_step

NEXT_TOKEN = NextToken()
B, T, V = 16, 16, 64
ONE, PMAP = {"devices": 1}, {"devices": 8}
MESH = {"devices": 8, "strategy": "mesh", "data": 2, "fsdp": 2, "tensor": 2}
PATTERNS = {"attention": ("attention", "mlp"), "mamba": ("mamba",)}


def batch_of(seed):
  """Packed rows with very uneven padding: the first device's rows are full, some are empty."""
  generator = np.random.default_rng(seed)
  rows = []
  for row in range(B):
    end = T + 1 if row < 2 else generator.integers(0, T + 1) * (row % 4 > 0)
    segments = np.where(np.arange(T + 1) < end, 1, 0)
    segments[generator.integers(0, end + 1) : end] += 1
    tokens = generator.integers(0, V, T + 1)
    rows.append({"tokens": tokens, "segments": segments, "document_ids": segments})
  examples = [NEXT_TOKEN.transform(row) for row in rows]
  return {name: np.stack([e[name] for e in examples]) for name in examples[0]}


def config_of(pattern=("mlp",), strategy="auto", accumulation=1, optimizer="adamw", **axes):
  config = shared_config.base()
  config.update(batch_size=B, seq_len=T, steps=40)
  config.model = model_config(vocab_size=V, d_model=32, repeats=1, pattern=pattern)
  config.optimizer.update(name=optimizer, accumulation=accumulation)
  config.optimizer.learning_rate = {"adamw": 3e-3, "sgd": 0.3}[optimizer]
  config.parallel.strategy = strategy
  config.parallel.axes.update(axes)
  return config


def strategy_of(devices=8, objective=NEXT_TOKEN, **options):
  config = config_of(**options)
  model = build.build(config.model)
  return strategies.make(config, model, objective, jax.devices()[:devices])


def train(strategy, seeds, state=None):
  """The state after a step on each batch, and the losses."""
  state = strategy.init(jax.random.PRNGKey(0)) if state is None else state
  losses = []
  for seed in seeds:
    state, metrics = strategy.step(state, strategy.put(batch_of(seed)))
    losses.append(metrics["loss"])
  return state, np.array(losses)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_one_device_and_pmap_and_a_mesh_give_one_loss_curve(pattern):
  curves = {}
  for name, layout in (("one", ONE), ("pmap", PMAP), ("mesh", MESH)):
    strategy = strategy_of(pattern=PATTERNS[pattern], **layout)
    state, curves[name] = train(strategy, [seed % 5 for seed in range(40)])
    held_out = strategy.evaluate(state, strategy.put(batch_of(99)))
    curves[name] = np.append(curves[name], held_out["loss"][0] / held_out["loss"][1])
  assert curves["one"][39] < curves["one"][0] - 0.3
  np.testing.assert_allclose(curves["pmap"], curves["one"], rtol=1e-5)
  np.testing.assert_allclose(curves["mesh"], curves["one"], rtol=1e-5)


FSDP = {**MESH, "data": 1, "tensor": 1, "devices": 2}


@pytest.mark.parametrize("layout", [{**ONE, "pattern": ("moe",)}, FSDP])
def test_four_micro_batches_give_the_step_of_one_batch(layout):
  # SGD: Adam would make updates of the rounding noise in gradients that are zero.
  whole, losses = train(strategy_of(**layout, optimizer="sgd"), range(3))
  parts, same = train(strategy_of(**layout, optimizer="sgd", accumulation=4), range(3))
  np.testing.assert_allclose(same, losses, rtol=1e-6)
  for got, wanted in zip(jax.tree.leaves(parts.params), jax.tree.leaves(whole.params), strict=True):
    np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("layout", [ONE, PMAP, MESH])
def test_a_batch_that_gives_no_finite_loss_is_skipped_and_counted(layout):
  strategy = strategy_of(**layout)
  state, _ = train(strategy, range(2))
  keep = lambda state: jax.tree.map(np.array, (state.params, state.opt_state))
  before = keep(state)
  for skipped in (1, 2):
    poisoned = batch_of(2)
    poisoned["weights"][B - 1, 0] = np.nan
    state, metrics = strategy.step(state, strategy.put(poisoned))
    jax.tree.map(np.testing.assert_array_equal, keep(state), before)
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (skipped, skipped)
  state, metrics = strategy.step(state, strategy.put(batch_of(3)))
  assert (metrics["skipped"], metrics["skipped_in_a_row"], state.step) == (2, 0, 5)
  assert np.any(keep(state)[0]["embed"]["tokens"] != before[0]["embed"]["tokens"])


def test_a_batch_without_tokens_changes_nothing_but_moments_and_decay():
  strategy = strategy_of(**ONE)
  empty = jax.tree.map(np.zeros_like, batch_of(0))
  _, metrics = strategy.step(strategy.init(jax.random.PRNGKey(0)), strategy.put(empty))
  assert (metrics["loss"], metrics["grad_norm"], metrics["skipped"]) == (0, 0, 0)


def test_a_checkpoint_of_one_strategy_goes_on_under_another():
  layouts = {"one": ONE, "pmap": PMAP, "mesh": MESH}
  made = {name: strategy_of(**layout) for name, layout in layouts.items()}
  wanted = train(made["one"], range(6))[1][3:]
  for source, target in (("one", "mesh"), ("mesh", "pmap"), ("pmap", "one")):
    state, _ = train(made[source], range(3))
    host = jax.tree.map(np.array, made[source].to_checkpoint(state))
    abstract = made[target].abstract_checkpoint()
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(abstract) == shapes(host)
    _, losses = train(made[target], range(3, 6), made[target].from_checkpoint(host))
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)


def test_a_restored_state_follows_the_schedule_of_its_own_config():
  config = config_of()
  config.optimizer.learning_rate = 0.5
  other = strategies.make(config, build.build(config.model), NEXT_TOKEN)
  state = other.from_checkpoint(strategy_of().init(jax.random.PRNGKey(0)))
  assert float(state.schedule.peak) == 0.5


@pytest.mark.parametrize("layout", [PMAP, MESH])
def test_a_step_is_traced_once_and_leaves_its_metrics_on_the_device(layout):
  traces = []

  def loss(*arguments, **options):
    traces.append(1)
    return NEXT_TOKEN.loss(*arguments, **options)

  counted = types.SimpleNamespace(count=NEXT_TOKEN.count, loss=loss)
  strategy = strategy_of(objective=counted, **layout)
  state, _ = train(strategy, [0])
  seen = len(traces)
  old = jax.tree.leaves(state.params)
  with jax.transfer_guard_device_to_host("disallow_explicit"):
    state, metrics = strategy.step(state, strategy.put(batch_of(1)))
  assert len(traces) == seen > 0
  assert all(isinstance(value, jax.Array) and value.shape == () for value in metrics.values())
  assert all(leaf.is_deleted() for leaf in old), "the old state's memory was not given away"


def test_dropout_draws_anew_for_each_step_and_each_device():
  config = config_of()
  config.model.dropout_rate = 0.5
  config.optimizer.learning_rate = 0.0
  same = {name: np.repeat(x[:1], B, axis=0) for name, x in batch_of(0).items()}
  seen = {}
  for devices in (1, 8):
    strategy = strategies.make(
      config, build.build(config.model), NEXT_TOKEN, jax.devices()[:devices]
    )
    state, losses = strategy.init(jax.random.PRNGKey(0)), []
    for _ in range(2):
      state, metrics = strategy.step(state, strategy.put(same))
      losses.append(float(metrics["grad_norm"]))
    assert losses[0] != losses[1]
    seen[devices] = losses
  # Sixteen different masks average out noise that eight times the same two would not.
  assert seen[8][0] == pytest.approx(seen[1][0], rel=0.25)


def test_a_mesh_holds_each_parameter_and_its_moments_in_parts():
  strategy = strategy_of(**MESH)
  state = strategy.init(jax.random.PRNGKey(0))
  kernel = lambda tree: tree["stack"]["0"]["0_mlp"]["in"]["kernel"]
  moments = state.opt_state[1]
  for array in (kernel(state.params), kernel(moments.mu), kernel(moments.nu)):
    assert array.sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    assert array.addressable_shards[0].data.size == array.size // 4


def test_a_mesh_says_which_sizes_it_could_not_split(caplog):
  with caplog.at_level(logging.WARNING):
    layout = {**MESH, "data": 1, "fsdp": 1, "tensor": 8}
    strategy = strategy_of(pattern=("attention",), **layout)
  assert "0_attention/q/kernel (1, 32, 4, 8) over tensor" in caplog.text
  assert strategy.describe() == "mesh: 1 data x 1 fsdp x 8 tensor over 8 devices"
  state = strategy.init(jax.random.PRNGKey(0))
  q = state.params["stack"]["0"]["0_attention"]["q"]["kernel"]
  assert q.sharding.is_fully_replicated


def test_two_dimensions_on_one_mesh_axis_and_unknown_names_are_refused():
  sizes = {"data": 1, "fsdp": 2, "tensor": 2}
  assert strategies.partition_spec(("embed", "mlp"), (4, 3), sizes) == (
    PartitionSpec("fsdp", None),
    ["tensor"],
  )
  with pytest.raises(ValueError, match="two dimensions over one mesh axis"):
    strategies.partition_spec(("heads", "mlp"), (4, 4), sizes)
  with pytest.raises(ValueError, match="No rule"):
    strategies.partition_spec(("embd",), (4,), sizes)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"accumulation": 3}, "multiple of 24 .*found 16. The nearest is 24"),
    ({"strategy": "pmpa"}, "Did you mean 'pmap'"),
    ({"data": 2}, "set parallel.strategy to 'mesh'"),
    ({"strategy": "mesh", "data": 3}, "product is the 8 devices in use"),
    ({"strategy": "mesh", "data": -1, "fsdp": -1}, "one of them at most -1"),
    ({"strategy": "mesh", "data": -1, "fsdp": 3}, "product is the 8 devices"),
    ({"strategy": "mesh", "data": 0}, "sizes of at least 1"),
  ],
)
def test_a_layout_that_does_not_fit_is_refused(options, message):
  with pytest.raises(UserError, match=message):
    strategy_of(**options)


def test_a_minus_one_takes_the_devices_that_are_left():
  strategy = strategy_of(strategy="mesh", data=-1, fsdp=1, tensor=2)
  assert strategy.describe() == "mesh: 4 data x 1 fsdp x 2 tensor over 8 devices"


class Balanced(nn.Module):
  """Logits of nothing but a parameter, and one side loss a row in each of two layers."""

  @nn.compact
  def __call__(self, tokens_BT, segments, train):
    bias_V = self.param("bias", nn.initializers.zeros, (V,))
    row_B = jnp.sum(tokens_BT, axis=1) * (1.0 + bias_V[0])
    self.sow("losses", "balance", jnp.stack([row_B, 2 * row_B]))
    return Output(jnp.broadcast_to(bias_V, (*tokens_BT.shape, V)), None)


def test_side_losses_are_a_mean_over_rows_with_tokens_beside_the_mean_over_tokens():
  batch = {name: jnp.asarray(x) for name, x in batch_of(0).items()}
  model, rows = Balanced(), np.any(batch["segments"] > 0, axis=1)
  params = {"bias": jnp.zeros(V)}
  sums, metrics = NEXT_TOKEN.loss(model, params, batch, {}, train=True)
  counts = NEXT_TOKEN.count(batch)
  assert counts["rows"] == rows.sum() < B
  wanted = 3 * float(np.sum(batch["tokens"], axis=1)[rows].mean())
  np.testing.assert_allclose(sums["rows"] / counts["rows"], wanted, rtol=1e-6)
  np.testing.assert_allclose(sums["tokens"] / counts["tokens"], np.log(V), rtol=1e-6)
  np.testing.assert_allclose(metrics["side_loss"], (sums["rows"], counts["rows"]))

  config = config_of(optimizer="sgd")
  config.optimizer.clip_norm = 0.0
  optimizer = optimizers.make(config.optimizer, params, {"bias": ("vocab",)})
  schedule = schedules.make(config.schedule, 1e-3, 40)
  state = initial_state(params, optimizer, jax.random.PRNGKey(0), schedule)
  after = {}
  for parts in (1, 4):
    step = jax.jit(make_train_step(model, NEXT_TOKEN, optimizer, accumulation=parts))
    after[parts] = step(state, batch)[0].params["bias"]
  np.testing.assert_allclose(after[4], after[1], rtol=1e-5)
  rate = float(schedule(jnp.int32(0)))
  assert float(after[1][0]) == pytest.approx(-rate * wanted, rel=0.01)
