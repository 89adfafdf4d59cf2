"""Text from a run folder: its model, parameters and tokenizer, and the decoding of a prompt."""

import sys
from collections.abc import Iterator
from pathlib import Path

from llm_jax.inference import generate
from llm_jax.training import runs

_NEW_TOKENS = 256


def continuation(folder: Path | str, prompt: str, step: str = "best", **options) -> Iterator[str]:
  """What a trained run puts behind a prompt, or answers to it, piece by piece as it is made.

  Args:
    folder: a run folder.
    prompt: what stands before it.
    step: the checkpoint: a number, "latest" or "best".
    **options: those of `generate`; a temperature of 0 is greedy.

  Raises:
    UserError: no run there, or an option out of range.
  """
  return _pieces(runs.read(folder, step), prompt, options)


def _pieces(run, prompt: str, options: dict) -> Iterator[str]:
  if options.get("max_new_tokens") is None:
    options["max_new_tokens"] = _room(run, prompt)
  if options.get("temperature") == 0:
    options = {k: v for k, v in options.items() if k not in ("temperature", "top_k", "top_p")}
  else:
    options["method"] = "sample"
  yield from (
    piece
    for [piece] in generate.stream(
      run.model, run.params, [prompt], tokenizer=run.tokenizer, **options
    )
  )


def _room(run, prompt: str) -> int:
  """As many new tokens as one would want to read, and as the model has positions for."""
  spec = run.model.spec
  if not spec.max_length:
    return _NEW_TOKENS
  # An answer has positions of its own.
  used = 0 if spec.kind == "encoder_decoder" else len(run.tokenizer.encode(prompt)) + 1
  return max(1, min(_NEW_TOKENS, spec.max_length - used))


def to_terminal(folder: str, prompt: str, step: str, **options) -> None:
  """Prints the prompt and its continuation, or an encoder-decoder's answer alone, each piece as
  soon as it is there."""
  run = runs.read(folder, step)
  pieces = _pieces(run, prompt, options)
  first = next(pieces, "")  # a mistake is told before anything is printed
  sys.stdout.write(first if run.model.spec.kind == "encoder_decoder" else prompt + first)
  for piece in pieces:
    sys.stdout.flush()
    sys.stdout.write(piece)
  sys.stdout.write("\n")
  sys.stdout.flush()
