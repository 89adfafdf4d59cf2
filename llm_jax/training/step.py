"""One step of training, and one of evaluation, as pure functions.

Legend: A accumulated micro-batches, B batch rows.
"""

from collections.abc import Callable, Collection

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from llm_jax.training.parameters import merge, split
from llm_jax.training.schedules import Schedule
from llm_jax.training.unfreezing import Unfreezing


@struct.dataclass
class TrainState:
  """Everything a step changes, and the schedule it reads.

  Attributes:
    step: int32, steps made, skipped ones included.
    params: float32 parameters.
    opt_state: the optimizer's; unchanged by a skipped step.
    key: uint32 (2,), the run's random key; step n uses fold_in(key, n).
    skipped: int32, steps whose loss or gradient was not finite.
    skipped_in_a_row: int32, those since the last good step.
    schedule: the learning rate's numbers; a restored run takes them from its own config.
  """

  step: jax.Array
  params: dict
  opt_state: optax.OptState
  key: jax.Array
  skipped: jax.Array
  skipped_in_a_row: jax.Array
  schedule: Schedule


def initial_state(
  params, optimizer, key: jax.Array, schedule: Schedule, frozen: Collection[str] = ()
) -> TrainState:
  """The state before the first step; the optimizer keeps nothing of what is frozen."""
  zero, trained = jnp.zeros((), jnp.int32), split(params, frozen)[0]
  return TrainState(zero, params, optimizer.init(trained), key, zero, zero, schedule)


def make_train_step(
  model: nn.Module,
  objective,
  optimizer: optax.GradientTransformationExtraArgs,
  *,
  accumulation: int = 1,
  axis_name: str | None = None,
  frozen: Collection[str] = (),
  unfreezing: Unfreezing | None = None,
) -> Callable:
  """Builds `train_step(state, batch, constants=None) -> (state, metrics)`.

  The loss is a sum of ratios, `objective.loss` over `objective.count`. The counts are those of
  the whole batch and are known before the first micro-batch, so that gradients of all
  micro-batches and devices simply add up.

  Args:
    accumulation: micro-batches; must divide the rows of the batch (on each device).
    axis_name: the mapped axis to add up over, if the step runs under one.
    frozen: paths of the parameters that stay as they are: the loss is not differentiated by them.
    unfreezing: which of the others a step may change; None: all.

  `constants` are arguments of `objective.loss` by name, such as a teacher: arrays that no step
  changes and that are no part of the program.
  """

  def total(tree):
    return jax.lax.psum(tree, axis_name) if axis_name else tree

  def train_step(state, batch, constants=None):
    key = jax.random.fold_in(state.key, state.step)
    if axis_name:
      key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    counts = total(objective.count(batch))
    trained, fixed = split(state.params, frozen)

    def loss_fn(trained, index, micro_batch):
      rngs, params = {"dropout": jax.random.fold_in(key, index)}, merge(trained, fixed)
      sums, metrics = objective.loss(
        model, params, micro_batch, rngs, train=True, **(constants or {})
      )
      return sum(jax.tree.leaves(jax.tree.map(ratio, sums, counts))), metrics

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, pairs), grads = total(_accumulate(grad_fn, trained, batch, accumulation))

    learning_rate = state.schedule(state.step)
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(
      grads, state.opt_state, trained, learning_rate=learning_rate
    )
    new = optax.apply_updates(trained, updates)
    if unfreezing:
      new = unfreezing.apply(state.step, new, trained)
    params = merge(new, fixed)

    good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    keep = lambda new, old: jnp.where(good, new, old)
    state = state.replace(
      step=state.step + 1,
      params=jax.tree.map(keep, params, state.params),
      opt_state=jax.tree.map(keep, opt_state, state.opt_state),
      skipped=state.skipped + ~good,
      skipped_in_a_row=jnp.where(good, 0, state.skipped_in_a_row + 1),
    )
    metrics = {name: ratio(*pair) for name, pair in pairs.items()} | {
      "tokens": pairs["loss"][1],
      "grad_norm": grad_norm,
      "learning_rate": learning_rate,
      "skipped": state.skipped,
      "skipped_in_a_row": state.skipped_in_a_row,
    }
    return state, metrics

  return train_step


def make_eval_step(model: nn.Module, objective, *, axis_name: str | None = None) -> Callable:
  """Builds `eval_step(params, batch, constants=None) -> {name: (sum, count)}`, without dropout."""

  def eval_step(params, batch, constants=None):
    pairs = objective.loss(model, params, batch, {}, train=False, **(constants or {}))[1]
    return jax.lax.psum(pairs, axis_name) if axis_name else pairs

  return eval_step


def ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  """The quotient; 0 / 0 (a batch of padding) is 0, not NaN."""
  return numerator / jnp.where(denominator == 0, 1.0, denominator)


def _accumulate(grad_fn, params, batch, accumulation):
  """grad_fn(params, index, micro-batch), added up over the micro-batches of the batch."""
  if accumulation == 1:
    return grad_fn(params, 0, batch)

  def split(x_B):
    # Row i goes to micro-batch i mod A: rows of one device stay there when B is sharded.
    x_BA = x_B.reshape(x_B.shape[0] // accumulation, accumulation, *x_B.shape[1:])
    return jnp.moveaxis(x_BA, 1, 0)

  def add(sums, indexed):
    return jax.tree.map(jnp.add, sums, grad_fn(params, *indexed)), None

  micro_batches = jax.tree.map(split, batch)
  first = jax.tree.map(lambda x: x[0], micro_batches)
  shapes = jax.eval_shape(grad_fn, params, 0, first)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return jax.lax.scan(add, zeros, (jnp.arange(accumulation), micro_batches))[0]
