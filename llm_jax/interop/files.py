"""Checkpoint files: their tensors by name, read one at a time, and safetensors written whole."""

import contextlib
import dataclasses
import functools
import json
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from llm_jax.errors import UserError
from llm_jax.writing import whole_file

SINGLE, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
_DTYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "F8_E4M3": ml_dtypes.float8_e4m3fn,
  "F8_E5M2": ml_dtypes.float8_e5m2,
  "I64": np.int64,
  "I32": np.int32,
  "I16": np.int16,
  "I8": np.int8,
  "U64": np.uint64,
  "U32": np.uint32,
  "U16": np.uint16,
  "U8": np.uint8,
  "BOOL": np.bool_,
}
_CODES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor of a file. `read()` maps it into memory; what holds the result holds the mapping."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """What a path holds.

  Attributes:
    path: as given.
    config: of config.json; None where there is none.
    tensors: by name; nothing is read yet.
  """

  path: Path
  config: dict | None
  tensors: dict[str, Tensor]


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
  """Opens a folder with config.json and model.safetensors (or its index of several files), a
  folder with one weights file only, or that file; a .pth file where torch is installed.

  Raises:
    UserError: nothing there, or a file that is damaged or not what it is called.
  """
  path = Path(path).expanduser()
  if path.is_dir():
    config = read_json(path / CONFIG) if (path / CONFIG).exists() else None
    return Checkpoint(path, config, _folder_tensors(path))
  if not path.exists():
    raise UserError(
      f"Expected a folder with {CONFIG} and {SINGLE} at {path}, or one weights file; there is none."
    )
  beside = path.parent / CONFIG
  config = read_json(beside) if path.name == SINGLE and beside.exists() else None
  return Checkpoint(path, config, _file_tensors(path))


def read_json(path: Path) -> dict:
  """A JSON object. Raises UserError if the file holds anything else."""
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read as JSON: {error}.") from None
  if not isinstance(value, dict):
    raise UserError(f"Expected a JSON object in {path}, found {type(value).__name__}.")
  return value


def _folder_tensors(folder):
  if (folder / SINGLE).exists():
    return _file_tensors(folder / SINGLE)
  if (folder / INDEX).exists():
    return _indexed_tensors(folder)
  found = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".pth"))
  if len(found) == 1:
    return _file_tensors(found[0])
  there = f"found {', '.join(p.name for p in found)}" if found else "found no weights"
  pickles = sorted(p.name for p in folder.glob("*.bin"))
  hint = f" ({', '.join(pickles)} is a pickle: save it as safetensors)" if pickles else ""
  raise UserError(f"Expected {SINGLE} or {INDEX} in {folder}; {there}{hint}.")


def _indexed_tensors(folder):
  """The tensors of all files an index names; index and files must tell the same."""
  index = folder / INDEX
  where = read_json(index).get("weight_map")
  if not isinstance(where, dict) or not where:
    raise UserError(f"{index} has no weight_map from tensor names to file names.")
  found = {}
  for name in dict.fromkeys(where.values()):
    # An index is data from elsewhere: it may not lead out of its folder.
    if not isinstance(name, str) or name != os.path.basename(name) or name in ("", ".", ".."):
      raise UserError(f"{index} names {name!r}, which is not a file of its folder. Refused.")
    if not (folder / name).is_file():
      raise UserError(f"{index} names {name}, but there is no such file in {folder}.")
    for tensor, value in _file_tensors(folder / name).items():
      if where.get(tensor) != name:
        expected = where.get(tensor, "nowhere")
        raise UserError(f"{folder / name} holds {tensor!r}, which {index.name} puts {expected}.")
      found[tensor] = value
  for tensor, name in where.items():
    if tensor not in found:
      raise UserError(f"{index} puts {tensor!r} into {name}, which does not hold it.")
  return found


def _file_tensors(path) -> dict[str, Tensor]:
  if path.suffix in (".pth", ".pt"):
    return _torch_tensors(path)
  try:
    with safe_open(path, framework="np"):  # checks the header, and the size of the file
      pass
    with open(path, "rb") as file:
      (size,) = struct.unpack("<Q", file.read(8))
      header = json.loads(file.read(size))
  except (SafetensorError, OSError, ValueError, struct.error) as error:
    raise UserError(
      f"{path} is damaged or no safetensors file: {str(error) or type(error).__name__}. "
      "Download or save it again."
    ) from None
  header.pop("__metadata__", None)
  return {name: _mapped(path, 8 + size, name, entry) for name, entry in header.items()}


def _mapped(path, start, name, entry) -> Tensor:
  dtype, shape = _DTYPES.get(entry["dtype"]), tuple(entry["shape"])
  if dtype is None:
    raise UserError(f"{path}: {name!r} is stored as {entry['dtype']}; known: {', '.join(_DTYPES)}.")

  def read():
    if 0 in shape:
      return np.zeros(shape, dtype)
    # A mapping of its own: its pages leave memory as soon as the tensor has been copied.
    offset = start + entry["data_offsets"][0]
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)

  return Tensor(shape, np.dtype(dtype), read)


def _torch_tensors(path) -> dict[str, Tensor]:
  """The tensors of a torch file. Only tensors are unpickled: such a file could hold any code."""
  try:
    import torch
  except ImportError:
    raise UserError(
      f"Reading {path} needs torch (pip install torch); or save it as safetensors."
    ) from None
  try:
    values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    tensors = {name: value.detach() for name, value in values.items()}
  except Exception as error:  # whatever an unpickler meets in a damaged file
    reason = str(error).partition("\n")[0]
    raise UserError(f"{path} is no torch file of named tensors: {reason}.") from None

  def read(tensor):
    if tensor.dtype == torch.bfloat16:
      return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()

  def dtype(tensor):
    return read(tensor.new_zeros(1)).dtype

  return {
    name: Tensor(tuple(tensor.shape), dtype(tensor), functools.partial(read, tensor))
    for name, tensor in tensors.items()
  }


def write_safetensors(
  path: Path, shapes: dict[str, tuple[tuple[int, ...], np.dtype]], arrays: Iterable[np.ndarray]
) -> None:
  """Writes a safetensors file whole or not at all, holding one array in memory at a time.

  Args:
    path: of the file.
    shapes: {name: (shape, dtype)}, in the order of the arrays.
    arrays: the values.

  Raises:
    UserError: a dtype the format does not have, or the disk refuses.
  """
  header, end = {"__metadata__": {"format": "pt"}}, 0
  for name, (shape, dtype) in shapes.items():
    if np.dtype(dtype) not in _CODES:
      raise UserError(f"{name!r} has dtype {np.dtype(dtype)}, which safetensors cannot store.")
    start, end = end, end + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    code = _CODES[np.dtype(dtype)]
    header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)

  with _written(path) as file:
    file.write(struct.pack("<Q", len(text)) + text)
    for (name, (shape, dtype)), array in zip(shapes.items(), arrays, strict=True):
      if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name}: {array.dtype}{array.shape} instead of {dtype}{shape}")
      file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def write_json(path: Path, value: dict) -> None:
  """Writes JSON whole or not at all. Raises UserError if the disk refuses."""
  with _written(path) as file:
    file.write((json.dumps(value, indent=2) + "\n").encode())


@contextlib.contextmanager
def _written(path):
  try:
    with whole_file(path) as file:
      yield file
  except OSError as error:
    raise UserError(f"Could not write {path}: {error.strerror}.") from error
