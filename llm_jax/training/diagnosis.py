"""Where in a model the numbers grew too large: what a run says when it has to stop."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

_NAMED = 5


class _Recorder:
  """A model whose `apply` also keeps what every module in it returned."""

  def __init__(self, model: nn.Module):
    self._model = model
    self.outputs = {}

  def __getattr__(self, name):
    return getattr(self._model, name)

  def apply(self, variables, *args, mutable=(), **kwargs):
    kept = ["intermediates", *mutable]
    output, updates = self._model.apply(
      variables, *args, mutable=kept, capture_intermediates=True, **kwargs
    )
    self.outputs = updates.pop("intermediates")
    return (output, updates) if mutable else output


def largest_activations(model: nn.Module, objective, params, batch) -> list[tuple[str, float]]:
  """The outputs of largest absolute value in a forward pass on a batch, without dropout.

  Args:
    model, objective: as the training step has them.
    params: the parameters.
    batch: the rows of this process, numpy.

  Returns:
    (module path, value), the largest first; one of repeated layers is named by its repeat in
    brackets. A module that returned NaN or infinity has that as its value and comes first.
  """
  arrays = {name: x for name, x in batch.items() if name != "document_ids"}

  @jax.jit
  def forward(params, arrays):
    recorder = _Recorder(model)
    objective.loss(recorder, params, arrays, {}, train=False)
    return jax.tree_util.tree_map_with_path(_peaks, recorder.outputs)

  outputs = jax.device_get(forward(params, arrays))
  found = {}
  for path, peaks in jax.tree_util.tree_flatten_with_path(outputs)[0]:
    name = "/".join(_keys(path)).removesuffix("__call__").rstrip("/") or "model"
    for repeat, value in enumerate(np.atleast_1d(peaks)):
      label = f"{name}[{repeat}]" if np.ndim(peaks) else name
      found[label] = max(found.get(label, 0.0), abs(float(value)), key=_size)
  return sorted(found.items(), key=lambda entry: -_size(entry[1]))[:_NAMED]


def _size(value: float) -> float:
  return value if np.isfinite(value) else np.inf


def _keys(path) -> list[str]:
  return [str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey)]


def _peaks(path, x):
  """The largest absolute value; one for each repeat of a stage, whose outputs are stacked."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return jnp.zeros(())
  stacked = any(key.isdecimal() for key in _keys(path))
  return jnp.max(jnp.abs(x.astype(jnp.float32)), axis=tuple(range(int(stacked), x.ndim)))
