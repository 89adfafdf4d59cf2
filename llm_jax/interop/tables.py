"""A family's table put to work: parameters filled from a file's tensors, and the reverse.

One parameter is filled in its place, from one tensor after the other. What leaves
does so one tensor at a time: it is cut out on its device, and nothing stays on the host.
"""

import collections
import functools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from llm_jax.errors import UserError
from llm_jax.interop.files import Tensor
from llm_jax.interop.weights import Weight
from llm_jax.models.partition import partition_spec
from llm_jax.models.spec import Spec

_ALIGNMENT = 64  # bytes: JAX on CPU takes such a buffer as it is, and copies any other
_BLOCK = 1024  # rows compared at a time


class Table:
  """The rows of a family for one model, checked against its parameters.

  Args:
    rows: `weights(spec)` of the family.
    expected: {path: shape and dtype} of the model's parameters.

  Raises:
    UserError: a parameter that no row fills, or that several do.
  """

  def __init__(self, rows: list[Weight], expected: dict[str, jax.ShapeDtypeStruct]):
    paths = collections.Counter(row.path for row in rows)
    wrong = [path for path in [*expected, *paths] if paths[path] != 1 or path not in expected]
    if wrong:
      raise UserError(
        "The model's parameters and the family's table disagree on "
        f"{_listed(dict.fromkeys(wrong))}."
      )
    self._shapes = {path: leaf.shape for path, leaf in expected.items()}
    # Rows that share their tensors, each a part of them, in order.
    groups = collections.defaultdict(list)
    for row in rows:
      groups[row.names].append(row)
    self._groups = [sorted(group, key=lambda row: row.part or 0) for group in groups.values()]
    for group in self._groups:
      if [row.part for row in group] not in ([None], list(range(len(group)))):
        raise ValueError(f"{group[0].names}: {[(row.path, row.part) for row in group]}")

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every tensor that a file must hold."""
    found = {}
    for group in self._groups:
      shape = self._shape_there(group)
      found |= {name: shape for _, name in group[0].places() if name}
    return found

  def _shape_there(self, group):
    row, shape = group[0], self._shapes[group[0].path]
    leading = len(row.places()[0][0])
    if math.prod(shape[:leading]) != len(row.places()):
      raise ValueError(f"{row.path} {shape} has {len(row.places())} names: {row.names}")
    one = shape[leading:] if row.part is None else (len(group), *shape[leading:])
    return jax.eval_shape(row.there, jax.ShapeDtypeStruct(one, np.float32)).shape

  def fill(self, tensors: dict[str, Tensor], param_dtype, mesh: Mesh | None, axes: dict) -> dict:
    """The parameters.

    Args:
      tensors: of the file, checked.
      param_dtype: of all of them; None: as they are stored.
      mesh: where they go; None: the default device.
      axes: {path: logical axes}.
    """
    params = {}
    for row in (row for group in self._groups for row in group):
      shape, dtype = self._shapes[row.path], param_dtype or _common_dtype(row, tensors)
      part = functools.partial(_part, row, tensors, dtype, shape)
      if mesh is None:
        params[row.path] = jax.device_put(part((slice(None),) * len(shape)))
        continue
      spec, _ = partition_spec(axes[row.path], shape, dict(mesh.shape))
      place = NamedSharding(mesh, spec)
      params[row.path] = jax.make_array_from_callback(shape, place, part, dtype=dtype)
    return params

  def dtypes(self, params: dict) -> dict[str, np.dtype]:
    """{name: dtype} in which the tensors will leave."""
    groups = ((group[0], np.dtype(params[group[0].path].dtype)) for group in self._groups)
    return {name: dtype for row, dtype in groups for _, name in row.places() if name}

  def tensors(self, params: dict) -> Iterator[np.ndarray]:
    """The values, in the order of `shapes`."""
    for group in self._groups:
      values = [params[row.path] for row in group]
      for index, name in group[0].places():
        if name and group[0].part is None:
          yield group[0].there(_on_host(values[0], index))
        elif name:
          yield group[0].there(np.stack([_on_host(value, index) for value in values]))


def _on_host(value, index) -> np.ndarray:
  """One tensor of a parameter. An array keeps what it once was on the host as long as it lives; so
  it is a part or a copy that is taken there, and soon dropped."""
  if isinstance(value, jax.Array) and not index:
    value = value.copy()
  return np.asarray(value[index])


def _part(row: Weight, tensors, dtype, shape, index) -> np.ndarray:
  """The part of a parameter that slices cut out; only that part of each tensor is read."""
  bounds = [s.indices(size)[:2] for s, size in zip(index, shape, strict=True)]
  target = _aligned(tuple(stop - start for start, stop in bounds), dtype)
  for place, name in row.places():
    leading = bounds[: len(place)]
    if all(start <= i < stop for i, (start, stop) in zip(place, leading, strict=True)):
      to = tuple(i - start for i, (start, _) in zip(place, leading, strict=True))
      source = row.here(tensors[name].read())[tuple(index[len(place) :])] if name else 0
      target[to] = source
  return target


def _aligned(shape, dtype) -> np.ndarray:
  size = math.prod(shape) * np.dtype(dtype).itemsize
  buffer = np.empty(size + _ALIGNMENT, np.uint8)
  start = -buffer.ctypes.data % _ALIGNMENT
  return buffer[start : start + size].view(dtype).reshape(shape)


def _common_dtype(row, tensors):
  """In which one parameter can hold all its tensors; float64 only where JAX has it enabled."""
  dtypes = {tensors[name].dtype: name for _, name in row.places() if name}
  for dtype, name in dtypes.items():
    if not jnp.issubdtype(dtype, jnp.floating):
      raise UserError(f"{name!r} is stored as {dtype}; expected floating point numbers.")
  # JAX's promotion: numpy has none of bfloat16 with float16.
  common = functools.reduce(jnp.promote_types, dtypes or [np.dtype(np.float32)])
  return jax.dtypes.canonicalize_dtype(common)


# --------------------------------------------------------------------- a file against the table


def check_tensors(
  found: dict[str, Tensor],
  family: ModuleType,
  spec: Spec,
  needed: dict[str, tuple[int, ...]],
  path: Path,
) -> dict[str, Tensor]:
  """A file's tensors under the table's names: every one needed is there in its shape, and every
  one there is needed, or is a copy or a buffer that the family names.

  Raises:
    UserError: listing what is missing, left over, of another shape or no true copy.
  """
  names = _names(found, family, path)
  tensors = {name: found[there] for name, there in names.items()}
  for copy, original in _hook(family, "aliases", spec).items():
    _drop_copy(tensors, copy, original, path)
  for name, array in _hook(family, "constants", spec).items():
    tensor = tensors.pop(name, None)
    if tensor is not None and not _equal(tensor.read(), array, 1e-5):
      raise UserError(f"{path}: {name!r} is not the constant that this model_type has there.")
  ignored = re.compile("|".join(getattr(family, "IGNORED", ())) or r"(?!)")
  missing = [name for name in needed if name not in tensors]
  left = [name for name in tensors if name not in needed and not ignored.fullmatch(name)]
  if missing or left:
    lacks = [f"lacks {_listed(missing)}"] if missing else []
    holds = [f"holds {_listed(names[name] for name in left)}, of no use to it"] if left else []
    raise UserError(
      f"{path} is not what a {family.MODEL_TYPES[0]!r} of its config consists of: it "
      f"{' and '.join(lacks + holds)}."
    )
  for name, shape in needed.items():
    if tensors[name].shape != tuple(shape):
      raise UserError(
        f"{path}: {name!r} has shape {tensors[name].shape}; its config.json asks for {shape}."
      )
  return tensors


def _hook(family, name, spec) -> dict:
  return getattr(family, name)(spec) if hasattr(family, name) else {}


def _names(found, family, path) -> dict[str, str]:
  """{the table's name: the file's}."""
  rename, names = getattr(family, "rename", lambda name: name), {}
  for there in found:
    first = names.setdefault(rename(there), there)
    if first != there:
      raise UserError(f"{path} holds one tensor under two names, {first!r} and {there!r}.")
  return names


def _drop_copy(tensors, copy, original, path):
  """A tied copy must equal its original; or it is the only one there, and takes its place."""
  tensor = tensors.pop(copy, None)
  if tensor is None:
    return
  first = tensors.setdefault(original, tensor)
  if first is not tensor and not _equal(first.read(), tensor.read()):
    raise UserError(
      f"{path}: {copy!r} differs from {original!r}, to which config.json ties it. If they are "
      "meant to differ, set tie_word_embeddings to false there."
    )


def _equal(a, b, tolerance=0.0):
  """Whether two arrays agree, compared block by block: one may be as large as a file's largest."""
  if a.shape != b.shape:
    return False
  blocks = (slice(start, start + _BLOCK) for start in range(0, len(a), _BLOCK)) if a.ndim else [()]
  return all(np.allclose(a[i], b[i], rtol=tolerance, atol=tolerance) for i in blocks)


def check_params(params: dict, expected: dict) -> None:
  """Raises UserError naming the first parameters that are missing, unknown or of another shape."""
  shapes = {path: tuple(value.shape) for path, value in params.items()}
  wrong = [p for p in dict.fromkeys([*expected, *shapes]) if p not in shapes or p not in expected]
  if wrong:
    raise UserError(f"These parameters are missing, or not the model's: {_listed(wrong)}.")
  for path, shape in shapes.items():
    if shape != expected[path].shape:
      raise UserError(
        f"The parameter {path} has shape {shape}; the model's is {expected[path].shape}."
      )


def _listed(names) -> str:
  names = list(names)
  more = f" and {len(names) - 5} more" if len(names) > 5 else ""
  return ", ".join(repr(name) for name in names[:5]) + more
