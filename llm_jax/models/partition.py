"""How a parameter is split over a mesh of devices, by the names of its axes."""

from jax.sharding import PartitionSpec

# Which mesh axis splits a dimension with this logical name; None: it is never split.
RULES = {
  "embed": "fsdp",
  "vocab": "tensor",
  "heads": "tensor",
  "mlp": "tensor",
  "kv": "tensor",
  "expert": None,
  "state": None,
  "layers": None,
  None: None,
}


def partition_spec(
  axes: tuple[str | None, ...], shape: tuple[int, ...], sizes: dict[str, int]
) -> tuple[PartitionSpec, list[str]]:
  """How a parameter is split over the mesh, by `RULES`.

  Args:
    axes: its logical axes.
    shape: its shape.
    sizes: of the mesh axes; an axis that the mesh does not have splits nothing.

  Returns:
    the spec, and the mesh axes left out because they do not divide their dimension.

  Raises:
    ValueError: a logical name without a rule, or two that go to one mesh axis.
  """
  missing = [axis for axis in axes if axis not in RULES]
  if missing:
    raise ValueError(f"No rule for the logical axes {missing} of {axes}; known: {[*RULES]}")
  names = [RULES[axis] if RULES[axis] in sizes else None for axis in axes]
  used = [name for name in names if name]
  if len(set(used)) != len(used):
    raise ValueError(f"The logical axes {axes} would split two dimensions over one mesh axis")
  fits = [name and size % sizes[name] == 0 for name, size in zip(names, shape, strict=True)]
  spec = PartitionSpec(*[name if fit else None for name, fit in zip(names, fits, strict=True)])
  return spec, [name for name, fit in zip(names, fits, strict=True) if name and not fit]
