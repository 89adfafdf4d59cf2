"""Scores of a run in the job that its objective trains, where that reads records.

A job's module has `scores(run, records, training) -> dict`, see `labelled`.
"""

import importlib
from pathlib import Path

from llm_jax import objective as objectives
from llm_jax.data import records
from llm_jax.errors import UserError
from llm_jax.training import inputs, runs, workdir

MODULES = {
  "classification": "labelled",
  "contrastive": "labelled",
  "prefix_answer": "translation",
  "question_answering": "answers",
  "sequence_to_sequence": "translation",
  "synthetic": "synthetic",
  "token_classification": "labelled",
}


def reads_records(folder: Path | str) -> bool:
  """Whether the run's objective is one of records, not of running text."""
  config = workdir.read_config(Path(folder))
  return bool(config.get("objective") and objectives.make(config).FIELDS)


def evaluate(
  folder: Path | str,
  data: str | None = None,
  step: str = "latest",
  limit: int | None = None,
  **decoding,
) -> dict:
  """Scores a run on records.

  Args:
    folder: a run folder.
    data: path of the records, as `config.data.path`; None: the run's validation records.
    step: the checkpoint: a number, "latest" or "best".
    limit: how many records, from the first on; None: all.
    **decoding: num_beams and length_penalty, of runs that answer with a text; None: their defaults.

  Returns:
    what the job's `scores` give, and objective, examples, data and step. Without the training
    records there is no baseline, and `without_training` says why they could not be read.

  Raises:
    UserError: no run or records there, an option that means nothing to the run, or records that
      the objective refuses.
  """
  run = runs.read(folder, step)
  name, asked = run.config.objective, objectives.make(run.config)
  if data is not None and hasattr(asked, "parts"):
    raise UserError(
      f"The objective {name!r} makes its own examples and reads no others: leave out "
      f"--data={data}, and the run's held-out examples are scored."
    )
  decoding = {option: value for option, value in decoding.items() if value is not None}
  if decoding and MODULES[name] != "translation":
    raise UserError(f"The objective {name!r} generates no text: {', '.join(decoding)} has no use.")
  if limit is not None and limit < 1:
    raise UserError(f"limit must be at least 1, found {limit}.")
  text, missing = None, ""
  try:
    text = inputs.load_text(run.config)
    if text.sha256 != run.text_sha256:
      raise UserError("The records that the config names are not those the run was trained on.")
  except UserError as error:
    if data is None:
      raise
    text, missing = None, str(error)
  parts = (
    [part for part, _ in text.validation] if data is None else [records.load(data, asked.FIELDS)]
  )
  found = [record for part in parts for record in part.records][:limit]
  training = [] if text is None else [r for part, _ in text.train for r in part.records]
  module = importlib.import_module(f"llm_jax.evaluation.{MODULES[name]}")
  made = module.scores(run, found, training, **decoding)
  about = {"objective": name, "examples": len(found), "data": data or "validation", "step": step}
  return made | about | ({"without_training": missing} if missing else {})
