"""Where arrays live and how a step is spread over devices: `Pmap` or `Mesh`, one interface.

Both keep the logical state, whole arrays without a device axis; a checkpoint of one restores
under the other, on any number of devices. Their methods:

  init(key) -> state                   made on the devices, never on the host
  put(rows) -> batch                   this process's rows (numpy), as the step wants them
  step(state, batch) -> (state, metrics)       the state given is used up
  evaluate(state, batch) -> {name: (sum, count)}
  to_checkpoint(state), from_checkpoint(tree) -> state, abstract_checkpoint()
  with_schedule(config) -> strategy    the same programs for a run that differs in numbers alone
  describe() -> str                    for the log
"""

import copy
import functools
import logging
import math

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from llm_jax.errors import UserError, unknown
from llm_jax.models import build
from llm_jax.models.partition import partition_spec
from llm_jax.training import optimizers, parameters, schedules
from llm_jax.training.step import TrainState, initial_state, make_eval_step, make_train_step
from llm_jax.training.unfreezing import Unfreezing

_log = logging.getLogger(__name__)

STRATEGIES = ("auto", "pmap", "mesh")
AXES = ("data", "fsdp", "tensor")


def make(
  config: ConfigDict,
  model: nn.Module,
  objective,
  devices: list | None = None,
  constants: dict | None = None,
) -> "Pmap | Mesh":
  """The strategy a config asks for, with its optimizer and schedule.

  Args:
    config: the whole config.
    devices: those to use; None: all of them, on every process.
    constants: what the objective's loss is given by name, such as a teacher; each device gets a
      copy of its arrays.

  Raises:
    UserError: an unknown name, or a batch or axes that do not fit the devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  name, axes = config.parallel.strategy, dict(config.parallel.axes)
  if name not in STRATEGIES:
    raise unknown("parallel.strategy", name, STRATEGIES)
  if set(axes) != set(AXES):
    raise UserError(f"parallel.axes must name {', '.join(AXES)}; found {', '.join(sorted(axes))}.")
  if name == "mesh":
    return Mesh(config, model, objective, devices, constants or {})
  if set(axes.values()) != {1}:
    raise UserError(
      f"parallel.axes are {axes}, but parallel.strategy={name!r} only copies the model: "
      "set parallel.strategy to 'mesh', or all axes to 1."
    )
  return Pmap(config, model, objective, devices, constants or {})


class Pmap:
  """Replicated data parallelism: every device holds all of the state and a part of the rows."""

  def __init__(self, config, model, objective, devices, constants):
    self._parts = _Parts(config, model, objective)
    self._devices = devices
    _check_batch(config, len(devices))
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    # Arrays that only this process sees: what pmap takes and gives when there are several.
    self._whole = NamedSharding(mesh.local_mesh, PartitionSpec())
    self._rows = NamedSharding(mesh.local_mesh, PartitionSpec("data"))
    self._everywhere = NamedSharding(mesh, PartitionSpec())
    self._init = jax.jit(self._parts.init, out_shardings=self._whole)
    self._constants = jax.device_put(constants, self._whole)
    pmap = functools.partial(
      jax.pmap, axis_name="data", in_axes=(None, 0, None), out_axes=None, devices=devices
    )
    self._step = pmap(self._parts.train_step("data"), donate_argnums=0)
    self._evaluate = pmap(self._parts.eval_step("data"))

  def init(self, key: jax.Array) -> TrainState:
    """The state before the first step, from a uint32 (2,) key."""
    return self._init(key, self._parts.schedule)

  def put(self, rows: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows on its devices, (device, rows of a device, ...)."""
    count = len(self._rows.mesh.devices)

    def place(x):
      return jax.device_put(x.reshape(count, x.shape[0] // count, *x.shape[1:]), self._rows)

    return jax.tree.map(place, _device_part(rows))

  def step(self, state: TrainState, batch: dict) -> tuple[TrainState, dict]:
    """One step; the state given must not be used again. Metrics are scalars on the device."""
    return self._step(state, batch, self._constants)

  def evaluate(self, state: TrainState, batch: dict) -> dict:
    """name -> (sum, count), over the rows of all devices."""
    return self._evaluate(state.params, batch, self._constants)

  def to_checkpoint(self, state: TrainState) -> TrainState:
    """The state as arrays that all processes see whole; nothing is copied."""
    return jax.tree.map(functools.partial(_replicate, sharding=self._everywhere), state)

  def from_checkpoint(self, tree: TrainState) -> TrainState:
    """A restored state on the devices, with this run's schedule; numpy arrays will do."""
    tree = tree.replace(schedule=self._parts.schedule)
    return jax.tree.map(functools.partial(_replicate, sharding=self._whole), tree)

  def abstract_checkpoint(self) -> TrainState:
    """Shape, type and placement of what `to_checkpoint` returns."""
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._everywhere),
      self._parts.abstract_state(),
    )

  def with_schedule(self, config: ConfigDict) -> "Pmap":
    """The same programs with another run's schedule."""
    return _with_schedule(self, config)

  def describe(self) -> str:
    """One line for the log."""
    return f"pmap: state replicated on {_count(len(self._devices))}"


class Mesh:
  """One program over a mesh of data, fsdp and tensor axes: parameters and optimizer state are
  split over fsdp and tensor by `models/partition`, rows over data and fsdp; the compiler adds
  collectives."""

  def __init__(self, config, model, objective, devices, constants):
    self._parts = _Parts(config, model, objective)
    sizes = _mesh_sizes(dict(config.parallel.axes), len(devices))
    _check_batch(config, sizes["data"] * sizes["fsdp"])
    self._mesh = jax.make_mesh(
      tuple(sizes.values()), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3, devices=devices
    )
    self._sizes = sizes
    self._rows = NamedSharding(self._mesh, PartitionSpec(("data", "fsdp")))
    self._whole = NamedSharding(self._mesh, PartitionSpec())
    self._state = self._shardings()
    self._constants = jax.device_put(constants, self._whole)
    self._init = jax.jit(self._parts.init, out_shardings=self._state)
    self._step = jax.jit(
      self._parts.train_step(None),
      in_shardings=(self._state, self._rows, self._whole),
      out_shardings=(self._state, self._whole),
      donate_argnums=0,
    )
    self._evaluate = jax.jit(
      self._parts.eval_step(None),
      in_shardings=(self._state.params, self._rows, self._whole),
      out_shardings=self._whole,
    )

  def _shardings(self):
    """A TrainState of shardings; optimizer state is split like the parameter of its path."""
    abstract = self._parts.abstract_state()
    params, treedef = jax.tree_util.tree_flatten_with_path(abstract.params)
    placed, whole = {}, []
    for (path, leaf), axes in zip(params, treedef.flatten_up_to(self._parts.axes), strict=True):
      spec, left = partition_spec(axes, leaf.shape, self._sizes)
      placed[path] = (leaf.shape, NamedSharding(self._mesh, spec))
      whole += [f"{_name(path)} {leaf.shape} over {axis}" for axis in left]
    if whole:
      _log.warning("Sizes that their mesh axis does not divide are not split: %s", "; ".join(whole))

    def sharding(path, leaf):
      # Adam's moments and the like are trees of the parameters inside other trees.
      for start in range(len(path)):
        shape, found = placed.get(path[start:], (None, None))
        if shape == leaf.shape:
          return found
      return self._whole

    return jax.tree_util.tree_map_with_path(sharding, abstract)

  def init(self, key: jax.Array) -> TrainState:
    """The state before the first step, from a uint32 (2,) key; made in its place, part by part."""
    return self._init(key, self._parts.schedule)

  def put(self, rows: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows on its devices, as a part of the global batch."""
    place = functools.partial(jax.make_array_from_process_local_data, self._rows)
    return jax.tree.map(place, _device_part(rows))

  def step(self, state: TrainState, batch: dict) -> tuple[TrainState, dict]:
    """One step; the state given must not be used again. Metrics are scalars on the device."""
    return self._step(state, batch, self._constants)

  def evaluate(self, state: TrainState, batch: dict) -> dict:
    """name -> (sum, count), over all rows."""
    return self._evaluate(state.params, batch, self._constants)

  def to_checkpoint(self, state: TrainState) -> TrainState:
    """The state itself: its arrays are already logical, each process holding parts."""
    return state

  def from_checkpoint(self, tree: TrainState) -> TrainState:
    """A restored state on the devices, with this run's schedule; numpy arrays will do."""
    return jax.device_put(tree.replace(schedule=self._parts.schedule), self._state)

  def abstract_checkpoint(self) -> TrainState:
    """Shape, type and placement of what `to_checkpoint` returns."""
    place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(place, self._parts.abstract_state(), self._state)

  def with_schedule(self, config: ConfigDict) -> "Mesh":
    """The same programs with another run's schedule."""
    return _with_schedule(self, config)

  def describe(self) -> str:
    """One line for the log."""
    sizes = " x ".join(f"{size} {axis}" for axis, size in self._sizes.items())
    return f"mesh: {sizes} over {_count(self._mesh.devices.size)}"


class _Parts:
  """What both strategies are given: model, objective, optimizer, schedule."""

  def __init__(self, config, model, objective):
    self.model, self.objective = model, objective
    self.axes = build.param_axes(model)
    self.schedule = _schedule(config)
    params = build.abstract_params(model)
    self.frozen = parameters.frozen(config.freeze, params)
    self.unfreezing = Unfreezing(config, model.spec)
    trained, axes = (parameters.split(tree, self.frozen)[0] for tree in (params, self.axes))
    self.optimizer = optimizers.make(config.optimizer, trained, axes, build.undecayed(model))
    self.accumulation = config.optimizer.accumulation

  def init(self, key, schedule):
    params_key, run_key = jax.random.split(key)
    params = build.init_params(self.model, params_key)
    return initial_state(params, self.optimizer, run_key, schedule, self.frozen)

  def abstract_state(self):
    return jax.eval_shape(self.init, jax.random.PRNGKey(0), self.schedule)

  def train_step(self, axis_name):
    return make_train_step(
      self.model,
      self.objective,
      self.optimizer,
      accumulation=self.accumulation,
      axis_name=axis_name,
      frozen=self.frozen,
      unfreezing=self.unfreezing,
    )

  def eval_step(self, axis_name):
    return make_eval_step(self.model, self.objective, axis_name=axis_name)


def _with_schedule(strategy, config):
  changed = copy.copy(strategy)
  changed._parts = copy.copy(strategy._parts)
  changed._parts.schedule = _schedule(config)
  return changed


def _schedule(config):
  return schedules.make(config.schedule, config.optimizer.learning_rate, config.steps)


def _mesh_sizes(axes, devices):
  """The axes' sizes, -1 filled in; they must use every device."""
  known = math.prod(size for size in axes.values() if size != -1)
  free = [name for name in AXES if axes[name] == -1]
  if len(free) == 1 and known > 0 and devices % known == 0:
    axes = {**axes, free[0]: devices // known}
  if min(axes.values()) < 1 or math.prod(axes.values()) != devices:
    raise UserError(
      f"parallel.axes must be sizes of at least 1 whose product is the {_count(devices)} in use, "
      f"one of them at most -1 for what is left; found {axes}."
    )
  return {name: axes[name] for name in AXES}


def _check_batch(config, parts):
  """The batch is split over processes and devices, and there into micro-batches, without rest."""
  processes, micro = jax.process_count(), config.optimizer.accumulation
  if parts % processes:
    raise UserError(
      f"{processes} processes must each hold their own rows, but the rows are split in {parts}: "
      "expected data times fsdp of parallel.axes to be a multiple of the processes."
    )
  unit = parts * micro
  if config.batch_size < 1 or config.batch_size % unit:
    near = max(unit, round(config.batch_size / unit) * unit)
    raise UserError(
      f"batch_size must be a multiple of {unit} (rows are split over {_count(parts)}, and "
      f"optimizer.accumulation is {micro}); found {config.batch_size}. The nearest is {near}."
    )


def _device_part(rows):
  """Document ids are for messages about a batch: the host keeps them."""
  return {name: np.asarray(x) for name, x in rows.items() if name != "document_ids"}


def _replicate(x, sharding):
  """A whole array under another replicated sharding; between processes without a copy."""
  if isinstance(x, jax.Array) and x.sharding.device_set >= sharding.addressable_devices:
    shards = [s.data for s in x.addressable_shards if s.device in sharding.device_set]
    if x.is_fully_replicated and jax.process_count() > 1:
      return jax.make_array_from_single_device_arrays(x.shape, sharding, shards)
  return jax.device_put(x, sharding)


def _count(devices):
  return f"{devices} device" + ("s" if devices != 1 else "")


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator="/")
