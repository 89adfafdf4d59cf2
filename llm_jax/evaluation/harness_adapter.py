"""A trained run as a model of the `lm-eval` package, and its tasks from a local YAML file.

`pip install -r requirements-eval.txt` brings the package. Nothing here opens a connection: a task's
data are files that its YAML names in `dataset_kwargs.data_files`.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from llm_jax.errors import UserError, unknown
from llm_jax.evaluation import likelihood
from llm_jax.evaluation.tasks import before
from llm_jax.inference.generate import generate
from llm_jax.inference.prompt import asked

try:
  from lm_eval.api.model import LM
except ModuleNotFoundError as error:
  raise UserError(
    f"Tasks in YAML are run by the package lm-eval ({error}). Install it: pip install -r "
    "requirements-eval.txt; or give a .jsonl."
  ) from None

_PROMPTS = 16  # in one batch
_NEW_TOKENS = 256  # where a task names no number
_KNOWN = ("until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p")


class Adapter(LM):
  """What lm-eval asks of a model, answered in batches by this package.

  Contexts and continuations are encoded together, behind the token that begins documents.
  """

  def __init__(self, run, decoding: dict | None = None):
    """Args: a `training.runs.Trained`, a decoder's or an encoder-decoder's (rolling likelihoods
    need a decoder); options of `generate` that hold where a request says nothing else."""
    super().__init__()
    self._run, self._decoding = run, decoding or {}
    self._loaded = (run.model, run.params, run.tokenizer)

  def loglikelihood(self, requests: Sequence) -> list[tuple[float, bool]]:
    """(nats, whether greedy decoding makes it) of each request's (context, continuation)."""
    found = likelihood.continuations(*self._loaded, [request.args for request in requests])
    return [(one.nats, one.greedy) for one in found]

  def loglikelihood_rolling(self, requests: Sequence) -> list[float]:
    """Nats of each request's whole text."""
    return likelihood.rolling(*self._loaded, [request.args[0] for request in requests])

  def generate_until(self, requests: Sequence) -> list[str]:
    """The text behind each request's prompt, as far as the first string of its `until`."""
    texts, run, groups = [""] * len(requests), self._run, {}
    for index, request in enumerate(requests):
      groups.setdefault(_options(request.args[1]), []).append(index)
    for options, indices in groups.items():
      indices.sort(key=lambda i: -len(requests[i].args[0]))
      for start in range(0, len(indices), _PROMPTS):
        batch = indices[start : start + _PROMPTS]
        prompts, how = asked(run, [requests[i].args[0] for i in batch])
        how = {**self._decoding, **how, **dict(options)}
        made = generate(run.model, run.params, prompts, tokenizer=run.tokenizer, **how)
        for index, text in zip(batch, made, strict=True):
          texts[index] = before(text, _strings(requests[index].args[1].get("until", ())))
    return texts


def evaluate(run, path: Path, limit: int | None, decoding: dict) -> dict:
  """Runs the task of a YAML file.

  Args:
    run: a `training.runs.Trained`.
    path: the file; its folder may hold others that it includes.
    limit: how many examples; None: all.
    decoding: options of `generate`, as of `Adapter`.

  Returns:
    lm-eval's values and standard errors by its own names, and the number of examples.

  Raises:
    UserError: a file that is no task of lm-eval, or one whose data are not on the disk.
  """
  import yaml

  try:
    config = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
  except (OSError, ValueError, yaml.YAMLError) as error:
    raise UserError(f"{path} is no YAML: {error}.") from None
  name = config.get("task") if isinstance(config, dict) else None
  if not isinstance(name, str):
    raise UserError(f"{path} is no task of lm-eval: it has no `task: NAME`.")
  with _no_network():
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(path.parent), include_defaults=False)
    if name not in manager.all_tasks:
      raise UserError(f"lm-eval finds no task {name!r} in {path}: it needs a dataset_path.")
    found = simple_evaluate(
      model=Adapter(run, decoding),
      tasks=[name],
      task_manager=manager,
      limit=limit,
      bootstrap_iters=0,
      log_samples=False,
    )
  rows = found["results"][name].items()  # a value is called "METRIC,FILTER"
  values = {key: value for key, value in rows if "," in key and _is_number(value)}
  return values | {"examples": found["n-samples"][name]["effective"]}


@contextlib.contextmanager
def _no_network() -> Iterator[None]:
  """Tells the packages under lm-eval to ask nobody; they read this when they are imported."""
  for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ.setdefault(name, "1")
  yield


def _options(given: dict) -> tuple:
  """The options of `generate` in those of a request, as a key to group by.

  Raises:
    UserError: an option that would be left out in silence.
  """
  for name in given:
    if name not in _KNOWN:
      raise unknown("generation_kwargs entry", name, _KNOWN)
  options = {"max_new_tokens": int(given.get("max_gen_toks") or _NEW_TOKENS)}
  temperature = float(given.get("temperature") or 0.0)
  if given.get("do_sample") and temperature > 0:
    options |= {"method": "sample", "temperature": temperature}
    options |= {name: given[name] for name in ("top_k", "top_p") if name in given}
  return tuple(options.items())


def _strings(value) -> list[str]:
  return [value] if isinstance(value, str) else list(value or ())


def _is_number(value) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)
