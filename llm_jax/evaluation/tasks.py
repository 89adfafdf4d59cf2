"""Tasks for a language model, read from a local file, and how a run does in them.

A JSON object a line, of one kind in a file; what its fields are called says which:

  {"context": "...", "choices": ["...", ...], "answer": 0}    multiple_choice: which is likeliest?
  {"prompt": "...", "references": ["...", ...], "stop": [..]} generation: greedy, then scored
  {"text": "..."}                                             last_word: predict it from the others

A context and a choice are joined as they stand: the space between them is in one of them. What is
generated ends before the first of the strings in `stop`, which need not be given, and counts
without the white space around it. A .yaml file is a task of the `lm-eval` package instead.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm_jax.errors import UserError, unknown
from llm_jax.evaluation import likelihood, scores
from llm_jax.evaluation.token_scores import longest_input, require_language_model
from llm_jax.inference import settings
from llm_jax.inference.generate import generate
from llm_jax.inference.prompt import asked, length
from llm_jax.training import runs

KINDS = {
  "multiple_choice": ("context", "choices", "answer"),
  "generation": ("prompt", "references"),
  "last_word": ("text",),
}
_PROMPTS = 16  # in one batch


def evaluate(
  folder: Path | str,
  task: Path | str,
  step: str = "latest",
  *,
  metrics: Sequence[str] = ("exact_match", "f1"),
  limit: int | None = None,
  max_new_tokens: int = 64,
) -> dict:
  """Scores a run in the task of a file. What generates keeps to its checkpoint's own settings.

  Args:
    folder: a run folder.
    task: the file, as this module's docstring has it.
    step: the checkpoint: a number, "latest" or "best".
    metrics: of a generation task, the names in `scores.METRICS`.
    limit: how many examples, from the first on; None: all.
    max_new_tokens: of each generated text.

  Returns:
    scores by name; their units are those of `scores`.

  Raises:
    UserError: no such file or metric, a malformed line, or a model that the task does not suit.
  """
  path = Path(task).expanduser()
  if not path.is_file():
    raise UserError(
      f"No task file at {str(path)!r}. Expected a .yaml of lm-eval, or a .jsonl of which every "
      f"line has {_fields()}."
    )
  if limit is not None and limit < 1:
    raise UserError(f"limit must be at least 1, found {limit}.")
  for name in metrics:
    if name not in scores.METRICS:
      raise unknown("metric", name, scores.METRICS)
  if path.suffix in (".yaml", ".yml"):
    from llm_jax.evaluation import harness_adapter

    return harness_adapter.evaluate(runs.read(folder, step), path, limit, settings.read(folder))
  kind, examples = read(path, limit)
  run = runs.read(folder, step)
  loaded = (run.model, run.params, run.tokenizer)
  if kind == "multiple_choice":
    items = [(e["context"], e["choices"], e["answer"]) for e in examples]
    return likelihood.multiple_choice(*loaded, items)
  if kind == "last_word":
    return last_word(*loaded, [e["text"] for e in examples])
  return generation(run, examples, metrics, max_new_tokens, settings.read(folder))


def read(path: Path, limit: int | None = None) -> tuple[str, list[dict]]:
  """The kind of a task file and its checked lines; empty lines are none.

  Raises:
    UserError: an empty file, or a line that is no example of the first line's kind.
  """
  kind, examples = None, []
  try:
    lines = path.read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read as UTF-8 text: {error}.") from None
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    if len(examples) == limit:
      break
    where = f"{path}, line {number}"
    try:
      example = json.loads(line)
    except ValueError as error:
      raise UserError(f"{where} is no JSON: {error}.") from None
    kind = kind or _kind(example, where)
    _check(kind, example, where)
    examples.append(example)
  if not examples:
    raise UserError(f"{path} holds no examples. Expected lines that have {_fields()}.")
  return kind, examples


def last_word(model, params, tokenizer, texts: Sequence[str]) -> dict:
  """How well each text's last word is predicted from those before it.

  Returns:
    accuracy: share of texts whose last word greedy decoding would make; perplexity of a word, exp
    of the mean nats; examples; cut: contexts cut at their beginning to the model's length.

  Source: Paperno et al. 2016, arXiv:1606.06031 (LAMBADA), in open-vocabulary form.
  """
  # The space before the word is part of it, as it is in the pieces of most vocabularies.
  pairs = [(text.rstrip()[: -len(text.split()[-1])], text.split()[-1]) for text in texts]
  found = likelihood.continuations(model, params, tokenizer, pairs)
  return {
    "accuracy": float(np.mean([one.greedy for one in found])),
    "perplexity": math.exp(-float(np.mean([one.nats for one in found]))),
    "examples": len(found),
    "cut": sum(one.cut > 0 for one in found),
  }


def generation(
  run, examples: Sequence[dict], metrics: Sequence[str], max_new_tokens: int, decoding: dict
) -> dict:
  """Continues prompts greedily, or answers sources, and compares the texts with references.

  Args:
    decoding: other options of `generate`.
  """
  require_language_model(run.model, ("decoder", "encoder_decoder"))
  prompts, how = asked(run, [example["prompt"] for example in examples])
  _check_room(run, prompts, max_new_tokens)
  order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
  texts = [""] * len(prompts)
  for start in range(0, len(order), _PROMPTS):
    chosen = order[start : start + _PROMPTS]
    made = generate(
      run.model,
      run.params,
      [prompts[i] for i in chosen],
      tokenizer=run.tokenizer,
      max_new_tokens=max_new_tokens,
      **decoding,
      **how,
    )
    for index, text in zip(chosen, made, strict=True):
      texts[index] = before(text, examples[index].get("stop", ())).strip()
  references = [example["references"] for example in examples]
  found = {}
  for score in dict.fromkeys(scores.METRICS[name][0] for name in metrics):
    keys = [key for name in metrics if scores.METRICS[name][0] is score for key in _keys(name)]
    values = score(texts, references)
    found |= {key: values[key] for key in keys}
  return found | {"examples": len(texts)}


def before(text: str, stops: Sequence[str]) -> str:
  """The text as far as the first of some strings in it, which is cut off."""
  ends = [text.find(stop) for stop in stops if stop]
  return text[: min((end for end in ends if end >= 0), default=len(text))]


def _keys(metric):
  return scores.METRICS[metric][1]


def _check_room(run, prompts, max_new_tokens):
  """`generate` would refuse these too, but knows no example's number."""
  longest = longest_input(run.model)
  if longest is None:
    return
  for number, prompt in enumerate(prompts, 1):
    used = length(run, prompt)
    if run.model.spec.kind == "decoder":
      used += max_new_tokens
    if max(used, max_new_tokens) > longest:
      raise UserError(
        f"Example {number} needs {max(used, max_new_tokens)} positions, its new tokens included, "
        f"but the model has learned {longest}. Shorten it, or lower --max-new-tokens."
      )


def _fields():
  return " or ".join(f"{', '.join(fields)} ({kind})" for kind, fields in KINDS.items())


def _kind(example, where):
  found = example.keys() if isinstance(example, dict) else ()
  for kind, fields in KINDS.items():
    if all(field in found for field in fields):
      return kind
  raise UserError(
    f"{where} is no example of a task: expected the fields {_fields()}; found "
    f"{', '.join(map(str, found)) or type(example).__name__}."
  )


def _check(kind, example, where):
  if not isinstance(example, dict) or not all(field in example for field in KINDS[kind]):
    raise UserError(f"{where} should have {', '.join(KINDS[kind])}, as the first line has.")
  if kind == "last_word":
    if not isinstance(example["text"], str) or len(example["text"].split()) < 2:
      raise UserError(f"{where}: text must hold at least two words, found {example['text']!r}.")
    return
  text, several = ("context", "choices") if kind == "multiple_choice" else ("prompt", "references")
  texts, stop = example[several], example.get("stop", [])
  empty = kind == "multiple_choice"  # a context may be, what follows it is then unconditional
  if not isinstance(example[text], str) or not (empty or example[text].strip()):
    raise UserError(f"{where}: {text} must be a text, found {example[text]!r}.")
  if not _strings(texts) or not texts or not all(texts):
    raise UserError(f"{where}: {several} must be a list of texts, none empty; found {texts!r}.")
  if not _strings(stop):
    raise UserError(f"{where}: stop must be a list of strings, found {stop!r}.")
  answer = example.get("answer")
  if kind == "multiple_choice" and (type(answer) is not int or not 0 <= answer < len(texts)):
    raise UserError(
      f"{where}: answer must be the number of a choice, 0 to {len(texts) - 1}; found {answer!r}."
    )


def _strings(value) -> bool:
  return isinstance(value, list) and all(isinstance(item, str) for item in value)
