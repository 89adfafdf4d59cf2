"""Optimizers: optax transformations chosen by name, with weight decay by parameter path.

Each takes the learning rate as an argument of `update`, so that it is a number of the compiled
step and not a part of its text. What is a matrix (Muon, Adafactor) is read from logical axes:
parameters of repeated layers are stacked, so the number of axes says nothing.
"""

import math
import re
from typing import Any, NamedTuple

import jax
import optax
import optax.contrib
from ml_collections import ConfigDict

from llm_jax.errors import UserError, unknown
from llm_jax.training.parameters import factors

NAMES = ("adamw", "adam", "sgd", "lion", "adafactor", "muon", "adagrad")


class Matrix(NamedTuple):
  """How a parameter is read as a batch of matrices: which of its axes, in order, go where.

  A batch of vectors has no columns.
  """

  batch: tuple[int, ...]
  rows: tuple[int, ...]
  columns: tuple[int, ...]

  def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(batch, rows, columns), or (batch, rows) of vectors, for a parameter of this shape."""
    sides = (self.batch, self.rows, self.columns) if self.columns else (self.batch, self.rows)
    return tuple(math.prod(shape[axis] for axis in side) for side in sides)


def make(
  config: ConfigDict, params: Any, axes: Any, undecayed: tuple[str, ...] = ()
) -> optax.GradientTransformationExtraArgs:
  """The optimizer of a run: `update(grads, opt_state, params, learning_rate=...)`.

  Clipping by global norm, then the method, then decoupled weight decay (none for "adam"), then
  the learning rate, times the factor of the parameter's group.

  Args:
    config: `config.optimizer`.
    params: the parameters that are trained, or their shapes.
    axes: their logical axes, a like tree of tuples.
    undecayed: regexes of the paths that take no weight decay where config.decay_mask is empty;
      Muon leaves these to Adam in any case.

  Raises:
    UserError: unknown name, a hyperparameter out of range, a decay mask that misses parameters,
      or a group that matches none.

  Sources: Kingma & Ba 2015, arXiv:1412.6980; Loshchilov & Hutter 2019, arXiv:1711.05101; Chen et
  al. 2023 (Lion), arXiv:2302.06675; Shazeer & Stern 2018 (Adafactor, updates relative to each
  parameter's own size), arXiv:1804.04235; Duchi et al. 2011 (AdaGrad), JMLR 12; Jordan et
  al. 2024 (Muon), kellerjordan.github.io/posts/muon, scaled as in Liu et al. 2025,
  arXiv:2502.16982, eq. 4, so that one learning rate serves its matrices and the rest, which Adam
  updates.
  """
  _check(config)
  steps = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
  steps.append(_method(config, params, axes, undecayed))
  if config.weight_decay and config.name != "adam":
    mask = decay_mask(config.decay_mask, params, undecayed)
    steps.append(optax.add_decayed_weights(config.weight_decay, mask))
  groups = factors(config.groups, params)
  return optax.chain(*steps, _scale_by_learning_rate(groups))


def _check(config):
  if config.name not in NAMES:
    raise unknown("optimizer", config.name, NAMES)
  for name in ("b1", "b2"):
    if not 0 <= config[name] < 1:
      raise UserError(f"optimizer.{name} is {config[name]}; expected a number in [0, 1).")
  for name in ("learning_rate", "epsilon", "weight_decay", "clip_norm"):
    if not (config[name] >= 0 and math.isfinite(config[name])):
      raise UserError(f"optimizer.{name} is {config[name]}; expected a finite number >= 0.")
  if config.accumulation < 1:
    raise UserError(f"optimizer.accumulation is {config.accumulation}; expected 1 or more.")


def _method(config, params, axes, undecayed):
  """The transformation from gradients to directions of unit learning rate."""
  b1, b2 = config.b1, config.b2
  if config.name in ("adamw", "adam"):
    return optax.scale_by_adam(b1, b2, config.epsilon)
  if config.name == "sgd":
    return optax.trace(decay=b1)
  if config.name == "adagrad":
    # epsilon stands beside the root, as Adam's; a first gradient counts like any other.
    return optax.scale_by_rss(initial_accumulator_value=0.0, eps=config.epsilon**2)
  if config.name == "lion":
    return optax.scale_by_lion(b1, b2)
  matrices = _map_paths(lambda path, names: _matrix_of(path, names, undecayed), axes)
  if config.name == "adafactor":
    return _adafactor(params, matrices)
  return _muon(axes, matrices, optax.scale_by_adam(b1, b2, config.epsilon))


def _scale_by_learning_rate(groups):
  """Turns directions into updates with the learning rate given to `update`."""

  def update(updates, state, params=None, *, learning_rate, **_):
    scale = lambda path, u: -(learning_rate * groups[path] if path in groups else learning_rate) * u
    return _map_paths(scale, updates), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def decay_mask(table: tuple, params: Any, undecayed: tuple[str, ...] = ()) -> Any:
  """Which parameters take weight decay: a tree of bools like `params`.

  Args:
    table: ((regex of a whole path such as "stack/0/.*/kernel", decays?), ...); the first row that
      matches decides. Empty: everything decays but `undecayed`.

  Raises:
    UserError: a regex that does not parse, or parameters that no row matches.
  """
  rows = [*table] or [*((pattern, False) for pattern in undecayed), (".*", True)]
  try:
    rows = [(re.compile(pattern), bool(decays)) for pattern, decays in rows]
  except (re.error, TypeError, ValueError) as error:
    raise UserError(
      f"optimizer.decay_mask must be ((regex, True or False), ...), found {table!r}: {error}."
    ) from error
  missed = []

  def decays(path, _):
    for pattern, verdict in rows:
      if pattern.fullmatch(path):
        return verdict
    missed.append(path)

  mask = _map_paths(decays, params)
  if missed:
    raise UserError(
      "optimizer.decay_mask must say for every parameter whether it decays; no row matches "
      f"{', '.join(missed)}. End the table with ('.*', True) or ('.*', False)."
    )
  return mask


def matrix_of(axes: tuple[str | None, ...], vectors: bool = False) -> Matrix:
  """The matrices, or vectors, in a parameter with these logical axes.

  Stacked layers and experts are a batch. "embed" alone is one side, inputs of a projection or its
  outputs; where it is neither first nor last, the first axis is.

  Args:
    vectors: read as vectors what has axes enough for matrices (biases of heads, decays of states).
  """
  count = 0
  while count < len(axes) and axes[count] in ("layers", "expert"):
    count += 1
  batch, rest = tuple(range(count)), tuple(range(count, len(axes)))
  if vectors or len(rest) < 2:
    return Matrix(batch, rest, ())
  split = len(rest) - 1 if axes[-1] == "embed" and axes[rest[0]] != "embed" else 1
  return Matrix(batch, rest[:split], rest[split:])


def _muon(axes, matrices, adam):
  """Muon for the kernels of projections; Adam for vectors and for tables of a vocabulary.

  A side of which no axis has a name is no width of the model but taps of a convolution or a low
  rank: such kernels are Adam's too.
  """
  is_leaf = lambda x: isinstance(x, tuple)

  def choose(path, names, matrix):
    named = all(any(names[axis] for axis in side) for side in (matrix.rows, matrix.columns))
    chosen = named and "vocab" not in names and path.endswith("kernel")
    return matrix if chosen else optax.MaskedNode()

  kernels = _map_paths(choose, axes, matrices)
  labels = jax.tree.map(
    lambda kernel: "muon" if isinstance(kernel, Matrix) else "adam", kernels, is_leaf=is_leaf
  )
  numbers = jax.tree.map(
    lambda kernel: optax.contrib.MuonDimensionNumbers(kernel.rows, kernel.columns),
    kernels,
    is_leaf=lambda x: isinstance(x, Matrix),
  )

  def scale(update, kernel):
    # An orthogonal matrix has entries of size 1 / sqrt(longer side); Adam's are near 0.2.
    return update * (0.2 * math.sqrt(max(kernel.shape(update.shape)[1:])))

  muon = optax.chain(
    optax.contrib.scale_by_muon(beta=0.95, weight_dimension_numbers=numbers),
    optax.stateless(lambda updates, params: jax.tree.map(scale, updates, kernels)),
  )
  return optax.partition({"muon": muon, "adam": adam}, labels)


def _adafactor(params, matrices):
  """Adafactor on each matrix of each parameter by itself, as if layers were not stacked."""
  method = optax.chain(
    optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()
  )
  treedef = jax.tree.structure(params)
  layouts = treedef.flatten_up_to(matrices)

  def views(tree):
    leaves = jax.tree.leaves(tree)
    return [x.reshape(layout.shape(x.shape)) for x, layout in zip(leaves, layouts, strict=True)]

  def init(params):
    return [jax.vmap(method.init)(x) for x in views(params)]

  def update(updates, states, params):
    leaves = zip(views(updates), states, views(params), strict=True)
    news, states = zip(*[jax.vmap(method.update)(*leaf) for leaf in leaves], strict=True)
    news = [new.reshape(x.shape) for new, x in zip(news, jax.tree.leaves(updates), strict=True)]
    return treedef.unflatten(news), list(states)

  return optax.GradientTransformation(init, update)


def _matrix_of(path, axes, undecayed):
  return matrix_of(axes, vectors=any(re.fullmatch(pattern, path) for pattern in undecayed))


def _map_paths(function, tree, *rest):
  """tree.map with the path ("stack/0/...") as first argument; tuples of axes are leaves."""
  return jax.tree_util.tree_map_with_path(
    lambda path, *leaves: function(jax.tree_util.keystr(path, simple=True, separator="/"), *leaves),
    tree,
    *rest,
    is_leaf=lambda x: isinstance(x, tuple),
  )
