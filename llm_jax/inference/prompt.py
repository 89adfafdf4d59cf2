"""Text from a run folder: its model, parameters and tokenizer, and the decoding of prompts."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from llm_jax import objective as objectives
from llm_jax.inference import generate, settings
from llm_jax.inference.generate import Generated
from llm_jax.training import runs

_NEW_TOKENS = 256
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def continuation(folder: Path | str, prompt: str, step: str = "best", **options) -> Iterator[str]:
  """What a trained run puts behind a prompt, or answers to it, piece by piece as it is made.

  Args:
    folder: a run folder.
    prompt: what stands before it.
    step: the checkpoint: a number, "latest" or "best".
    **options: those of `generate`; it samples if they name no method.

  Raises:
    UserError: no run there, or an option out of range.
  """
  run = runs.read(folder, step)
  given, how = asked(run, [prompt])
  options = _settled(run, given, {**settings.read(folder), "method": "sample", **how, **options})
  for [piece] in generate.stream(run.model, run.params, given, tokenizer=run.tokenizer, **options):
    yield piece


def asked(run, texts: list[str]) -> tuple[list, dict]:
  """Prompts as the run's objective puts texts to its model, and the options that go with them."""
  objective = objectives.make(run.config) if run.config.objective else None
  if not hasattr(objective, "prompt"):
    return texts, {}
  return [objective.prompt(text, run.tokenizer) for text in texts], {"prefix": True}


def to_terminal(
  folder: str, prompts: list[str], step: str, batch_size: int, as_json: bool = False, **options
) -> None:
  """Prints each prompt with its continuation, or an encoder-decoder's answer alone.

  A single text streams. Several come a batch at a time, under headings; as JSON one object a
  prompt, on a line, with `texts`, `ids`, `log_probs` and, of a beam, `scores`.
  """
  run = runs.read(folder, step)
  given, how = asked(run, prompts)
  options = _settled(run, given, {**settings.read(folder), **how, **options})
  generate.check(run.model, given, tokenizer=run.tokenizer, **options)  # before anything is shown
  if as_json:
    for prompt, rows in _batches(run, prompts, batch_size, options):
      print(json.dumps(_described(prompt, rows), ensure_ascii=False), flush=True)
  elif len(prompts) == 1 and options.get("num_return_sequences", 1) == 1:
    _stream(run, prompts, options)
  else:
    _list(run, _batches(run, prompts, batch_size, options), len(prompts))


def length(run, prompt: str | list[int]) -> int:
  """Tokens of a prompt, the one that begins a text included."""
  return len(run.tokenizer.encode(prompt)) + 1 if isinstance(prompt, str) else len(prompt)


def _settled(run, prompts: list, options: dict) -> dict:
  """The options with as many new tokens as one would want to read, and as the model has positions
  for behind the longest prompt."""
  if options.get("max_new_tokens") is not None:
    return options
  room, spec = _NEW_TOKENS, run.model.spec
  if spec.max_length:
    # An answer has positions of its own.
    answers = spec.kind == "encoder_decoder"
    used = 0 if answers else max(length(run, prompt) for prompt in prompts)
    room = max(1, min(room, spec.max_length - used))
  return {**options, "max_new_tokens": room}


def _batches(run, prompts, size: int, options) -> Iterator[tuple[str, list[Generated]]]:
  """Each prompt with its rows."""
  count = options.get("num_return_sequences", 1)
  for first in range(0, len(prompts), size):
    batch, seed = prompts[first : first + size], options.get("seed", 0) + first
    given = {**options, "seed": seed, "return_log_probs": True}
    ids, _ = asked(run, batch)
    rows = generate.generate(run.model, run.params, ids, tokenizer=run.tokenizer, **given)
    for index, prompt in enumerate(batch):
      yield prompt, rows[index * count : (index + 1) * count]


def _described(prompt: str, rows: list[Generated]) -> dict:
  found = {
    "prompt": prompt,
    "texts": [row.text for row in rows],
    "ids": [row.ids for row in rows],
    "log_probs": [[round(value, 6) for value in row.log_probs] for row in rows],
  }
  return found if rows[0].score is None else {**found, "scores": [row.score for row in rows]}


def _stream(run, prompts, options) -> None:
  given, _ = asked(run, prompts)
  pieces = generate.stream(run.model, run.params, given, tokenizer=run.tokenizer, **options)
  [first] = next(pieces)
  sys.stdout.write(_before(run, prompts[0]) + first)
  for [piece] in pieces:
    sys.stdout.flush()
    sys.stdout.write(piece)
  sys.stdout.write("\n")
  sys.stdout.flush()


def _list(run, batches, count: int) -> None:
  for number, (prompt, rows) in enumerate(batches, 1):
    for sample, row in enumerate(rows, 1):
      of_prompt = f"prompt {number} of {count}" if count > 1 else ""
      of_sample = f"text {sample} of {len(rows)}" if len(rows) > 1 else ""
      heading = ", ".join(filter(None, (of_prompt, of_sample)))
      print(f"--- {heading} ---\n{_before(run, prompt)}{row.text}\n", flush=True)


def _before(run, prompt: str) -> str:
  """The prompt that a text goes on with, fainter where there are shades; nothing before answers."""
  if run.model.spec.kind == "encoder_decoder" or asked(run, [prompt])[1]:
    return ""
  return f"{_DIM}{prompt}{_PLAIN}" if sys.stdout.isatty() else prompt
