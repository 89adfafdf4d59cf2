"""Knowledge distillation: a student learns a task from a trained teacher's answers beside the text.

Sources: Hinton et al. 2015, arXiv:1503.02531, section 2, for the logits; Sanh et al. 2019,
arXiv:1910.01108, section 3, for the three losses of an encoder.

Legend: B batch, T position, D model, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax import objective
from llm_jax.data.tokenizers import Vocabulary
from llm_jax.errors import UserError, unknown
from llm_jax.models.spec import Spec
from llm_jax.objectives.masked_lm import MaskedLm
from llm_jax.objectives.next_token import NextToken

_TASKS = {"next_token": NextToken, "masked_lm": MaskedLm}


@dataclasses.dataclass(frozen=True)
class Distillation:
  """The weighted sum of three losses: of the task, of the teacher's answers, of its hidden states.

  Attributes:
    teacher: a run folder.
    task: the objective that the teacher was trained for, and whose examples the student reads:
      next_token or masked_lm.
    temperature: by which the logits of both are divided before their distributions are compared.
    hard, soft, cosine: weights of the task's loss, of the divergence from the teacher's
      distributions (times temperature squared, which keeps its gradient's size) and of one minus
      the cosine between the hidden states, which takes equal widths. Sanh et al. weigh them 2, 5
      and 1.
  """

  teacher: str = ""
  task: str = "next_token"
  temperature: float = 2.0
  hard: float = 1.0
  soft: float = 1.0
  cosine: float = 0.0

  FIELDS = ()

  def __post_init__(self):
    if self.task not in _TASKS:
      raise unknown("objective_options.task of distillation", self.task, _TASKS)
    if not (self.temperature > 0 and np.isfinite(self.temperature)):
      raise UserError(
        f"objective_options.temperature must be a number above 0, found {self.temperature}."
      )
    weights = (self.hard, self.soft, self.cosine)
    if not (min(weights) >= 0 and 0 < sum(weights) < np.inf):
      raise UserError(
        "objective_options.hard, soft and cosine must be 0 or more and not all 0, found "
        f"{', '.join(map(str, weights))}."
      )

  KINDS = property(lambda self: self._task.KINDS)
  HEAD = property(lambda self: self._task.HEAD)
  SPECIAL_TOKENS = property(lambda self: self._task.SPECIAL_TOKENS)

  @property
  def _task(self):
    return _TASKS[self.task]()

  def check_teacher(self, student: Spec, teacher: Spec) -> None:
    """Refuses a teacher of another task, or whose answers cannot be compared.

    Raises:
      UserError: as the text says.
    """
    objective.check_suits(self._task, self.task, teacher)
    if teacher.vocab_size != student.vocab_size:
      raise UserError(
        f"The teacher answers with {teacher.vocab_size} logits, the student with "
        f"{student.vocab_size}. Give the same model.vocab_size."
      )
    if self.cosine and teacher.d_model != student.d_model:
      raise UserError(
        f"objective_options.cosine compares hidden states, but the teacher has width "
        f"{teacher.d_model} and the student {student.d_model}. Set it to 0, or equal widths."
      )

  def target_length(self, seq_len: int) -> int:
    return self._task.target_length(seq_len)

  def transform(self, row: dict[str, np.ndarray], vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """The example that the task makes of a row."""
    return self._task.transform(row, vocabulary)

  def count(self, batch):
    """Those of the task, and the tokens at which the teacher is heard: all that are no padding."""
    return objective.count(batch) | {"taught": _taught(batch)}

  def loss(self, model, params, batch, rngs: dict, train: bool, teacher=None):
    """The sums and metrics; "loss" is the task's alone, as of a model without a teacher.

    Args:
      teacher: `objective.Teacher`; None where a trained student is scored on its task.
    """
    output, collections = objective.read(model, params, batch, rngs, train)
    sums, metrics = objective.sums(output.logits, collections, batch)
    if teacher is None:
      if train:
        raise ValueError("A student is trained with its teacher")
      return sums, metrics
    theirs, _ = objective.read(teacher.model, teacher.params, batch, {}, train=False)
    theirs = jax.lax.stop_gradient(theirs)
    real_BT, taught = batch["segments"] > 0, _taught(batch)
    total = lambda x_BT: jnp.sum(jnp.where(real_BT, x_BT, 0.0))
    soft = total(divergence(theirs.logits, output.logits, self.temperature))
    sums = {
      "tokens": self.hard * sums["tokens"],
      "rows": sums["rows"],
      "taught": self.soft * self.temperature**2 * soft,
    }
    metrics = metrics | {"soft_loss": (soft, taught)}
    if self.cosine:
      apart = total(1.0 - cosine(theirs.hidden, output.hidden))
      sums["taught"] += self.cosine * apart
      metrics = metrics | {"cosine_loss": (apart, taught)}
    return sums, metrics


def divergence(teacher_BTV, student_BTV, temperature: float):
  """KL(teacher, student) of the distributions at a temperature, nats, float32 (B, T).

  Cross-entropy less the teacher's entropy: the same gradient, and 0 where both agree.
  """
  teacher_BTV, student_BTV = (
    jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (teacher_BTV, student_BTV)
  )
  return jnp.sum(jnp.exp(teacher_BTV) * (teacher_BTV - student_BTV), axis=-1)


def cosine(one_BTD, other_BTD):
  """Of the angle between two vectors, float32 (B, T)."""
  one_BTD, other_BTD = (
    x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
    for x in (one_BTD.astype(jnp.float32), other_BTD.astype(jnp.float32))
  )
  return jnp.sum(one_BTD * other_BTD, axis=-1)


def _taught(batch):
  return jnp.sum(batch["segments"] > 0, dtype=jnp.float32)
