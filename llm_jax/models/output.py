"""What a model returns, and the state it passes from call to call.

Legend: B batch, T position, S memory position, D model, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from llm_jax.contract import document_positions
from llm_jax.errors import UserError
from llm_jax.models.spec import Spec


@struct.dataclass
class State:
  """Where each row of a batch stands: a plain pytree, passed in and handed back.

  Attributes:
    layers: per stage, per repeat, the state of each layer by its name in the parameters.
    position_B: int32, how many real tokens each row has seen.
    memory_segments_BS: 0 at the memory's padding (encoder-decoder), else None.
  """

  layers: Any
  position_B: jax.Array
  memory_segments_BS: jax.Array | None = None

  def advance(self, layers, segments_BT) -> "State":
    """The state after a chunk: its layers' states, and the real tokens counted."""
    seen_B = (segments_BT > 0).sum(1, dtype=jnp.int32)
    return self.replace(layers=layers, position_B=self.position_B + seen_B)


@struct.dataclass
class Output:
  """Attributes:
  logits: (B, T, V) float32 of the main head, or None without one.
  hidden: (B, T, D), the stream after the final norm.
  state: the State after these tokens, or None.
  heads: the output of every head by name.
  """

  logits: jax.Array | None
  hidden: jax.Array
  state: State | None = None
  heads: dict = struct.field(default_factory=dict)


def places_of(spec: Spec, tokens_BT, segments, state: State | None):
  """Segments, all real if None were given, and positions in the document, or after what the state
  has seen; -1 at padding.

  Raises:
    UserError: more tokens than learned positions, and no segments by which some are padding.
  """
  if segments is None:
    length = tokens_BT.shape[1]
    if spec.positions == "learned" and length > spec.max_length:
      raise UserError(
        f"The row has {length} tokens, but the model has learned positions for "
        f"{spec.max_length} (model.max_length). Shorten it, or give segments if it holds several "
        "documents or padding."
      )
    segments = jnp.ones_like(tokens_BT)
  if state is None:
    return segments, document_positions(segments)
  real_BT = segments > 0
  after_BT = state.position_B[:, None] + jnp.cumsum(real_BT, axis=1, dtype=jnp.int32) - 1
  return segments, jnp.where(real_BT, after_BT, -1)
