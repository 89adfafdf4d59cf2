"""Text from a run folder: its model, parameters and tokenizer, and the decoding of a prompt."""

import sys
from collections.abc import Iterator
from pathlib import Path

from llm_jax.data import tokenizers
from llm_jax.inference import generate
from llm_jax.models import build
from llm_jax.training import checkpoints, inputs, workdir


def continuation(folder: Path | str, prompt: str, step: str = "best", **options) -> Iterator[str]:
  """The text that a trained run puts behind a prompt, piece by piece as it is made.

  Args:
    folder: a run folder.
    prompt: what stands before it.
    step: the checkpoint: a number, "latest" or "best".
    **options: those of `generate`; a temperature of 0 is greedy.

  Raises:
    UserError: no run there, or an option out of range.
  """
  folder = Path(folder)
  config = workdir.read_config(folder)
  tokenizer = tokenizers.load(folder / inputs.TOKENIZER)
  model = inputs.model(config, tokenizer)
  params = checkpoints.load_params(folder, step)
  checkpoints.check_shapes(params, build.abstract_params(model), folder)
  if options.get("temperature") == 0:
    options = {k: v for k, v in options.items() if k not in ("temperature", "top_k", "top_p")}
  else:
    options["method"] = "sample"
  for [piece] in generate.stream(model, params, [prompt], tokenizer=tokenizer, **options):
    yield piece.removesuffix(tokenizer.decode([tokenizer.end_id]))


def to_terminal(folder: str, prompt: str, step: str, **options) -> None:
  """Prints the prompt and its continuation, each piece as soon as it is there."""
  pieces = continuation(folder, prompt, step, **options)
  first = next(pieces, "")  # a mistake is told before anything is printed
  sys.stdout.write(prompt + first)
  for piece in pieces:
    sys.stdout.flush()
    sys.stdout.write(piece)
  sys.stdout.write("\n")
  sys.stdout.flush()
