"""Learning-rate schedules: a warm-up, then one of five shapes, as numbers a compiled step reads.

The numbers travel in the train state instead of in the program, so that one compiled step serves
every learning rate, every length of run and every seed; only the shape's name is compiled in.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from ml_collections import ConfigDict

from llm_jax.errors import UserError, unknown

NAMES = ("constant", "cosine", "linear", "wsd", "inverse_sqrt")


@struct.dataclass
class Schedule:
  """The learning rate as a function of the step; all fields but the name are float32 scalars.

  Attributes:
    peak: learning rate after the warm-up.
    steps: length of the run; the last step has index steps - 1.
    warmup: steps of linear rise; step 0 has peak / warmup, never 0.
    decay: wsd's last steps, in which the rate falls.
    final: learning rate of the last step over the peak (cosine, linear, wsd).
    name: one of NAMES.
  """

  peak: jax.Array
  steps: jax.Array
  warmup: jax.Array
  decay: jax.Array
  final: jax.Array
  name: str = struct.field(pytree_node=False)

  def __call__(self, step: jax.Array) -> jax.Array:
    """Learning rate of the step with this index, float32 scalar.

    Source: cosine, Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, without restarts; wsd, Hu
    et al. 2024, arXiv:2404.06395, section 4 (with a linear fall); inverse_sqrt, Raffel et al.
    2020, arXiv:1910.10683, section 3.1.3.
    """
    done = step.astype(jnp.float32) + 1.0
    warm = jnp.minimum(1.0, done / jnp.maximum(self.warmup, 1.0))
    return self.peak * warm * self._shape(done)

  def _shape(self, done):
    """The rate over its peak once `done` steps are made, this one included."""
    if self.name == "constant":
      return jnp.ones_like(done)
    if self.name == "inverse_sqrt":
      knee = jnp.maximum(self.warmup, 1.0)
      return jnp.sqrt(knee / jnp.maximum(done, knee))
    length = self.decay if self.name == "wsd" else self.steps - self.warmup
    progress = 1.0 - (self.steps - done) / jnp.maximum(length, 1.0)
    progress = jnp.clip(progress, 0.0, 1.0)
    if self.name == "cosine":
      progress = 0.5 * (1.0 - jnp.cos(jnp.pi * progress))
    return 1.0 - (1.0 - self.final) * progress


def make(config: ConfigDict, learning_rate: float, steps: int) -> Schedule:
  """The schedule of a run.

  Args:
    config: `config.schedule`.
    learning_rate: the peak, `config.optimizer.learning_rate`.
    steps: `config.steps`, after all overrides.

  Raises:
    UserError: unknown name, or a fraction outside [0, 1].
  """
  if config.name not in NAMES:
    raise unknown("schedule", config.name, NAMES)
  for name in ("warmup_fraction", "decay_fraction", "final_fraction"):
    if not 0 <= config[name] <= 1:
      raise UserError(f"schedule.{name} is {config[name]}; expected a number from 0 to 1.")
  if config.name == "wsd" and config.warmup_fraction + config.decay_fraction > 1:
    raise UserError(
      f"schedule.warmup_fraction {config.warmup_fraction} and schedule.decay_fraction "
      f"{config.decay_fraction} overlap: expected a sum of at most 1."
    )
  # numpy, not jax: a step gives its state's buffers away, and these must outlive every run's.
  return Schedule(
    peak=np.float32(learning_rate),
    steps=np.float32(steps),
    warmup=np.float32(round(config.warmup_fraction * steps)),
    decay=np.float32(round(config.decay_fraction * steps)),
    final=np.float32(config.final_fraction),
    name=config.name,
  )
