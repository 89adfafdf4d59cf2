"""Gradual unfreezing: first the heads are trained, then from the top one block more at a time.

Source: Howard & Ruder 2018, arXiv:1801.06146, section 3.3, where it is one layer an epoch.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from llm_jax.errors import UserError
from llm_jax.models.spec import Spec
from llm_jax.training import parameters


class Unfreezing:
  """Which parameters a step may change: all, if `config.unfreeze.every` is 0.

  Steps 0 to every - 1 train the heads and the final norm, the next `every` steps the uppermost
  block too, and so on; an encoder lies below its decoder, the embeddings below all. Gradients are
  computed of everything from the first step on, so that an optimizer's moments are those of a run
  without it, and one compiled step serves all stages.

  Raises:
    UserError: a negative number of steps.
  """

  def __init__(self, config: ConfigDict, spec: Spec):
    self._every = config.unfreeze.every
    if self._every < 0:
      raise UserError(f"unfreeze.every must be 0 or more, found {self._every}.")
    stages = [("stack", spec.decoder_stages)]
    if spec.kind == "encoder_decoder":
      stages.insert(0, ("encoder", spec.encoder_stages))
    self._first, below = {}, 1  # the depth of each stage's first block; that of embeddings is 0
    for name, parts in stages:
      for index, (_, repeats) in enumerate(parts):
        self._first[f"{name}/{index}/"] = below
        below += repeats
    self._top = below - 1

  def apply(self, step: jax.Array, new: dict, old: dict) -> dict:
    """The new parameters where the step with this index may change them, else the old ones."""
    if not self._every:
      return new
    lowest = self._top + 1 - step // self._every
    old = parameters.flat(old)
    return parameters.nested(
      {
        path: jnp.where(self._depths(path, leaf) >= lowest, leaf, old[path])
        for path, leaf in parameters.flat(new).items()
      }
    )

  def _depths(self, path: str, leaf: jax.Array) -> jax.Array:
    """Of each block of a stacked parameter, or of the whole one."""
    for prefix, first in self._first.items():
      if path.startswith(prefix):
        return first + jnp.arange(leaf.shape[0]).reshape(-1, *(1,) * (leaf.ndim - 1))
    if path.endswith("position_bias") or path.partition("/")[0] in ("embed", "source_embed"):
      return jnp.int32(0)
    if path.startswith("encoder/"):  # its final norm goes with its uppermost block
      return jnp.int32(self._first["stack/0/"] - 1)
    return jnp.int32(self._top + 1)
