"""One row of a family's table: a parameter here, its tensors there, and how one becomes the other.

Layouts are einops patterns of one tensor, there -> here, in these letters:
d model, h heads, g key/value heads, k head size, f feed-forward, v vocabulary, e experts, p parts
(of one tensor there).
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
from einops import rearrange
from flax.core import FrozenDict

from llm_jax.errors import UserError
from llm_jax.models.spec import branches


@dataclasses.dataclass(frozen=True)
class Weight:
  """Where a parameter is found in a published file.

  Attributes:
    path: of the parameter here, "stack/0/1_mlp/in/kernel".
    names: of the tensor there; a tuple (of tuples) for each leading axis that is stacked here:
      repeats, then experts. None in a tuple: no such tensor there, and zeros here.
    layout: einops pattern of one tensor, there -> here, "(h k) d -> d h k"; "" is the same shape.
    part: which index of the first axis on the pattern's right side, where one tensor there holds
      several parameters here: "(p h k) d -> p d h k".
    sizes: lengths of axes that einops cannot infer, {"p": 3, "h": 8}.
  """

  path: str
  names: str | tuple
  layout: str = ""
  part: int | None = None
  sizes: FrozenDict = dataclasses.field(default_factory=FrozenDict)

  def here(self, tensor: np.ndarray) -> np.ndarray:
    """One tensor of the file as its place in the parameter holds it; a view where that can be.

    Raises:
      ValueError: its shape does not fit the layout.
    """
    if not self.layout:
      return tensor
    try:
      array = rearrange(tensor, self.layout, **self.sizes)
    except Exception as error:  # einops has an error type of its own
      sizes = ", ".join(f"{axis}={size}" for axis, size in self.sizes.items())
      raise ValueError(
        f"{self.layout.split('->')[0].strip()} {sizes and f'with {sizes}'}"
      ) from error
    return array if self.part is None else array[self.part]

  def there(self, array: np.ndarray) -> np.ndarray:
    """The inverse of `here`; where `part` is set, of all parts stacked on a new first axis."""
    if not self.layout:
      return array
    left, right = self.layout.split("->")
    return rearrange(array, f"{right} -> {left}", **self.sizes)

  def places(self) -> list[tuple[tuple[int, ...], str | None]]:
    """(index into the leading axes, name there) of every tensor."""
    return list(_places(self.names, ()))


def _places(names, index):
  if names is None or isinstance(names, str):
    yield index, names
  else:
    for i, inner in enumerate(names):
      yield from _places(inner, (*index, i))


def weight(path: str, names: str | tuple, layout="", part: int | None = None, **sizes) -> Weight:
  """A Weight; `sizes` are axis lengths, `h=8`."""
  return Weight(path, names, layout, part, FrozenDict(sizes))


@dataclasses.dataclass(frozen=True)
class Entry:
  """One entry of a stage's flattened pattern, and the published layers its repeats are.

  Attributes:
    name: the layer's name in the pattern.
    path: of its parameters, "stack/0/1_mlp".
    norm: of the norm before it, "stack/0/1_norm"; a group with one norm has its first branch's.
    slot: which of the `per_layer` entries of a published layer this is.
    numbers: number of the published layer of each repeat.
  """

  name: str
  path: str
  norm: str
  slot: int
  numbers: tuple[int, ...]

  @property
  def post_norm(self) -> str:
    """Path of the norm after it ("sandwich")."""
    return self.norm.removesuffix("_norm") + "_post_norm"

  def weight(
    self,
    path: str,
    template: str | Callable[[int], str | tuple | None],
    layout: str = "",
    part: int | None = None,
    **sizes,
  ) -> Weight:
    """The Weight of a parameter of this entry, stacked over its repeats.

    Args:
      path: "q/kernel", below the entry's own; from the root if it begins with a root.
      template: "model.layers.{}.mlp.up_proj.weight", to be filled with each layer's number; or a
        function from the number to the name or names.
      layout, part, sizes: of the Weight.
    """
    if path.split("/")[0] not in ("stack", "encoder"):
      path = f"{self.path}/{path}"
    name = template if callable(template) else template.format
    return weight(path, tuple(name(number) for number in self.numbers), layout, part, **sizes)


def entries(stages, per_layer: int, root: str = "stack") -> list[Entry]:
  """Every entry of the stages' patterns, in order.

  Args:
    stages: ((pattern, repeats), ...) of a Spec.
    per_layer: how many entries make one published layer: 2 for ("attention", "mlp").
    root: "stack", or "encoder" for an encoder-decoder's encoder.

  Raises:
    UserError: a pattern that is no whole number of published layers.
  """
  found, first = [], 0
  for stage, (pattern, repeats) in enumerate(stages):
    names = branches(pattern)
    if len(names) % per_layer:
      raise UserError(f"Expected a pattern of {per_layer} layers or a multiple, found {pattern}.")
    layers = len(names) // per_layer
    for index, name in enumerate(names):
      number, slot = divmod(index, per_layer)
      at = f"{root}/{stage}/{index}"
      numbers = tuple(first + repeat * layers + number for repeat in range(repeats))
      found.append(Entry(name, f"{at}_{name}", f"{at}_norm", slot, numbers))
    first += layers * repeats
  return found


def stages_of(layers) -> dict:
  """The options of the stack, `pattern` and `repeats` or `stages`, that compile the fewest layers.

  Either the shortest cycle as often as it goes and the rest of another, or runs of equal layers.

  Args:
    layers: what each published layer is in a pattern, [("local", "mlp"), ("attention", "mlp")].
  """
  layers = [tuple(layer) for layer in layers]
  period = next(n for n in range(1, len(layers) + 1) if layers[n:] == layers[: len(layers) - n])
  repeats, rest = divmod(len(layers), period)
  cycle = [(layers[:period], repeats), *([(layers[:rest], 1)] if rest else [])]
  runs = [([layer], len(list(run))) for layer, run in itertools.groupby(layers)]
  shorter = min(cycle, runs, key=lambda stages: sum(len(part) for part, _ in stages))
  stages = tuple((tuple(itertools.chain(*part)), repeats) for part, repeats in shorter)
  if len(stages) > 1:
    return {"stages": stages}
  return {"pattern": stages[0][0], "repeats": stages[0][1]}


def norm_weights(norm: str, template: str, numbers=None, bias: bool = False) -> list[Weight]:
  """The scale, and with `bias` the bias, of a norm whose tensors are `weight` and `bias`.

  Args:
    norm: path of the norm, "stack/0/1_norm".
    template: "model.layers.{}.input_layernorm", without ".weight"; without "{}" if not stacked.
    numbers: of the published layers; None: the norm is not stacked.
    bias: whether it has one.
  """

  def names(end):
    if numbers is None:
      return template + end
    return tuple(template.format(number) + end for number in numbers)

  scale = weight(f"{norm}/scale", names(".weight"))
  return [scale, weight(f"{norm}/bias", names(".bias"))] if bias else [scale]


def attention_weights(entry: Entry, names, heads: int, groups=0, bias=True, out_bias=True):
  """The rows of an attention layer of four torch Linears.

  Args:
    entry: the layer.
    names: of the projections of queries, keys, values and outputs, without ".weight".
    heads, groups: how many there are of queries, and of keys and values; 0: as many.
    bias, out_bias: whether the first three, and the last one, have biases.
  """
  *inner, out = names
  rows = [entry.weight("out/kernel", f"{out}.weight", "d (h k) -> h k d", h=heads)]
  if out_bias:
    rows.append(entry.weight("out/bias", f"{out}.bias"))
  counts = (heads, groups or heads, groups or heads)
  for name, there, count in zip("qkv", inner, counts, strict=True):
    rows.append(entry.weight(f"{name}/kernel", f"{there}.weight", "(h k) d -> d h k", h=count))
    if bias:
      rows.append(entry.weight(f"{name}/bias", f"{there}.bias", "(h k) -> h k", h=count))
  return rows


def expert_weights(entry: Entry, router: str, template: str, names, experts: int) -> list[Weight]:
  """The rows of a mixture of gated experts: one tensor there for each expert.

  Args:
    entry: the layer.
    router: its name there, "{}" for the number of the layer.
    template: of an expert's tensors, "{0}" for the layer, "{1}" for the expert, "{2}" for the name.
    names: of the projections in, of the gate and out.
    experts: how many there are.
  """

  def each(name):
    return lambda layer: tuple(template.format(layer, expert, name) for expert in range(experts))

  rows = [entry.weight("router/kernel", router, "e d -> d e")]
  for here, name in zip(("in_kernel", "gate_kernel", "out_kernel"), names, strict=True):
    rows.append(entry.weight(here, each(name), "a b -> b a"))
  return rows
