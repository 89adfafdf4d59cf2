"""The flags of `launch.py generate`, and the options that they are."""

import argparse
import sys
from pathlib import Path

from llm_jax.errors import UserError

_EARLY = {"true": True, "false": False, "never": "never"}
# Flags whose names are those of options.
_SAME = (
  "max_new_tokens",
  "min_new_tokens",
  "temperature",
  "top_k",
  "top_p",
  "min_p",
  "repetition_penalty",
  "no_repeat_ngram_size",
  "num_beams",
  "length_penalty",
  "seed",
)


def add(parser: argparse.ArgumentParser) -> None:
  """Declares them; a flag that is not given is None, so that what was asked for is known."""
  group = parser.add_argument_group("prompts").add_argument
  group("--prompt", action="append", metavar="TEXT", help="text to continue; may be repeated")
  group("--prompts-file", metavar="FILE", help="one prompt a line; - is standard input")
  group("--batch-size", type=int, default=8, metavar="N", help="prompts at a time; default 8")

  group = parser.add_argument_group("length").add_argument
  group("--max-new-tokens", type=int, metavar="N", help="default 256, or what fits")
  group("--min-new-tokens", type=int, metavar="N", help="no end before as many")
  group("--stop", action="append", metavar="TEXT", help="ends a text; may be repeated")

  group = parser.add_argument_group("sampling, unless --temperature=0 or --num-beams").add_argument
  group("--temperature", type=float, metavar="X", help="0: the likeliest token; default 0.8")
  group("--top-k", type=int, metavar="N", help="keep the N likeliest tokens; default: all")
  group("--top-p", type=float, metavar="X", help="keep this much probability; default 0.95")
  group("--min-p", type=float, metavar="X", help="keep what is X times as likely as the likeliest")
  group("--seed", type=int, metavar="N", help="of the sampling; default 0")
  group("--num-samples", type=int, default=1, metavar="N", help="texts for each prompt; default 1")

  group = parser.add_argument_group("beam search").add_argument
  group("--num-beams", type=int, metavar="N", help="hypotheses kept of each prompt")
  group("--length-penalty", type=float, metavar="X", help="above 0 favours long texts; default 1")
  group("--early-stopping", choices=_EARLY, help="whether to stop at N ended ones; default false")

  group = parser.add_argument_group("repetition and single tokens").add_argument
  group("--repetition-penalty", type=float, metavar="X", help="above 1 avoids what has occurred")
  group("--no-repeat-ngram-size", type=int, metavar="N", help="no N tokens occur twice")
  group("--logit-bias", action="append", metavar="ID=X", help="added to a logit; repeatable")

  group = parser.add_argument_group("output").add_argument
  group("--json", action="store_true", help="one JSON object a prompt: texts, ids, log_probs")


def prompts(arguments: argparse.Namespace) -> list[str]:
  """The prompts of --prompt, then those of --prompts-file.

  Raises:
    UserError: there are none, or the file cannot be read.
  """
  found, path = list(arguments.prompt or ()), arguments.prompts_file
  if path is not None:
    try:
      content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
      found += content.decode().removesuffix("\n").split("\n") if content else []
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(f"--prompts-file={path}: expected a text file in UTF-8: {error}") from error
  if not found:
    raise UserError("No prompt. Give --prompt=TEXT, or --prompts-file=FILE with one a line.")
  return found


def options(arguments: argparse.Namespace) -> dict:
  """Those of `generate` that were given, method included.

  Raises:
    UserError: flags that exclude each other, or values that are none.
  """
  given = {name: getattr(arguments, name) for name in _SAME}
  given = {name: value for name, value in given.items() if value is not None}
  if arguments.batch_size < 1:
    raise UserError(f"--batch-size must be at least 1, found {arguments.batch_size}.")
  if arguments.num_samples != 1:
    given["num_return_sequences"] = arguments.num_samples
  if arguments.early_stopping is not None:
    given["early_stopping"] = _EARLY[arguments.early_stopping]
  if arguments.stop:
    given["stop_strings"] = arguments.stop
  if arguments.logit_bias:
    given["logit_bias"] = dict(map(_bias, arguments.logit_bias))
  return _with_method(given)


def _with_method(given: dict) -> dict:
  """Beam search if beams are asked for, the likeliest token at temperature 0, else sampling."""
  beam = given.get("num_beams") is not None
  for name in ("temperature", "top_k", "top_p", "min_p") if beam else ():
    if name in given:
      flag = name.replace("_", "-")
      raise UserError(f"--{flag} is of sampling, and --num-beams does not sample. Leave one out.")
  for name in () if beam else ("length_penalty", "early_stopping"):
    if name in given:
      raise UserError(f"--{name.replace('_', '-')} is of beam search: give --num-beams=N too.")
  if beam:
    return {**given, "method": "beam"}
  if given.get("temperature") != 0:
    return {"temperature": 0.8, "top_p": 0.95, **given, "method": "sample"}
  return {name: value for name, value in given.items() if name != "temperature"}


def _bias(text: str) -> tuple[int, float]:
  token, _, value = text.partition("=")
  try:
    return int(token), float(value)
  except ValueError:
    raise UserError(f"--logit-bias={text}: expected ID=X, such as 50256=-5.0.") from None
