"""A trained run read back: config, tokenizer, model and parameters, checked against each other."""

import dataclasses
from pathlib import Path

import flax.linen as nn
from ml_collections import ConfigDict

from llm_jax.data import tokenizers
from llm_jax.data.tokenizers import Tokenizer
from llm_jax.errors import UserError
from llm_jax.models import build
from llm_jax.training import checkpoints, inputs, workdir


@dataclasses.dataclass(frozen=True)
class Trained:
  """What a run folder holds at one checkpoint.

  Attributes:
    config: the run's.
    tokenizer, model: as it was trained.
    params: numpy arrays on the host.
    labels: the names that its classes stand for; () if it has none.
    text_sha256: of the text it was trained on.
  """

  config: ConfigDict
  tokenizer: Tokenizer
  model: nn.Module
  params: dict
  labels: tuple[str, ...]
  text_sha256: str


def read(folder: Path | str, step: int | str | None = None) -> Trained:
  """Opens a run folder.

  Args:
    folder: a run folder of `launch.py train`.
    step: the checkpoint: a number, "latest" (or None) or "best".

  Raises:
    UserError: there is no run, no such checkpoint, or its parts do not belong together.
  """
  folder = Path(folder)
  config = workdir.read_config(folder)
  if "compare" in config or "scaling" in config:
    raise UserError(
      f"{folder} is a comparison; its runs lie two folders deep in {folder / 'runs'}."
    )
  if "sweep" in config:
    raise UserError(
      f"{folder} is a sweep; its runs lie in {folder / 'trials'}/NUMBER, and result.json names the "
      "best."
    )
  params, identity = checkpoints.load(folder, step)
  tokenizer = tokenizers.load(folder / inputs.TOKENIZER)
  if identity["tokenizer"] not in (None, tokenizer.sha256):  # None: imported without one
    raise UserError(
      f"{folder / inputs.TOKENIZER} ({tokenizer.vocab_size} ids) is not the tokenizer that the "
      f"checkpoint was trained with ({identity['vocab_size']} ids). Put the run's own back."
    )
  file = folder / inputs.LABELS
  labels = tuple(workdir.read_json(file)) if file.exists() else ()
  model = build.build(inputs.model_config(config, tokenizer, labels), config.dtype)
  checkpoints.check_shapes(params, build.abstract_params(model), folder)
  return Trained(config, tokenizer, model, params, labels, identity["text"])
