"""The teacher of a run whose objective has one: a trained run, read and checked."""

import flax.linen as nn
from ml_collections import ConfigDict

from llm_jax import objective
from llm_jax.data.tokenizers import Tokenizer
from llm_jax.errors import UserError
from llm_jax.objective import Teacher
from llm_jax.training import inputs, runs


def constants(config: ConfigDict, model: nn.Module, tokenizer: Tokenizer) -> dict:
  """What the objective's loss is given beside the batch: {"teacher": Teacher}, or {}.

  Args:
    config: the whole config; the teacher is the best checkpoint of objective_options.teacher.
    model, tokenizer: the student's.

  Raises:
    UserError: no teacher, or one that reads other tokens or that the objective refuses.
  """
  asked = objective.make(config)
  if not hasattr(asked, "teacher"):
    return {}
  if not asked.teacher:
    raise UserError(
      f"Objective {config.objective!r} learns from a trained run: set "
      "--config.objective_options.teacher to its folder."
    )
  found = runs.read(asked.teacher, "best")
  if found.tokenizer.sha256 != tokenizer.sha256:
    raise UserError(
      f"The teacher {asked.teacher} has another tokenizer than this run: its answers are about "
      f"other pieces. Set --config.tokenizer.name={asked.teacher}/{inputs.TOKENIZER}."
    )
  spec = found.model.spec
  if spec.positions == "learned" and spec.max_length < config.seq_len:
    raise UserError(
      f"The teacher {asked.teacher} has learned positions for {spec.max_length} tokens, less than "
      f"this run's seq_len of {config.seq_len}. Lower seq_len."
    )
  asked.check_teacher(model.spec, spec)
  return {"teacher": Teacher(found.params, found.model)}
