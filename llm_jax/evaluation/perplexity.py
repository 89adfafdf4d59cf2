"""How well a trained run predicts a text: perplexity and bits per byte.

Three forms: in rows as it was trained; in windows, so that each token has a context of some length;
and whole, each document in one pass whatever its length.

Legend: B batch, T position, N scored token.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax import objective as objectives
from llm_jax.data import corpora, pipeline
from llm_jax.errors import UserError
from llm_jax.evaluation import token_scores
from llm_jax.training import inputs, runs
from llm_jax.training.step import make_eval_step


def evaluate(
  folder: Path | str,
  data: str | None = None,
  step: str = "latest",
  window: int | None = None,
  stride: int | None = None,
) -> dict:
  """Scores every token of a text.

  Args:
    folder: a run folder.
    data: path of the text, as `config.data.path`; None: the run's validation text.
    step: the checkpoint: a number, "latest" or "best".
    window: None scores the run's own rows of `seq_len` tokens, which know nothing of each other.
      0 reads each document from its beginning to its end, exact at any length: the model's state
      goes from chunk to chunk. Else the model reads `window` tokens at a time.
    stride: how far apart the windows begin, 1 to window; None: half a window. Each token is scored
      once, behind more than `window - stride` tokens of context where there are as many.

  Returns:
    loss (nats per token), perplexity, bits_per_byte, accuracy, tokens, bytes, data, step; and the
    window and stride, if they were asked for. An objective whose rows are not the text from end to
    end has no bits per byte, but all of its own metrics.

  Raises:
    UserError: no run or text there, a checkpoint that does not fit, a window or stride out of
      range, or one for a model that does not read from left to right.
  """
  form = _form(window, stride)
  run = runs.read(folder, step)
  if not run.config.objective:
    raise UserError(
      f"No objective trains a model like that of {folder} (model.kind={run.model.spec.kind!r}, "
      f"model.heads={run.model.spec.heads}), so there is nothing to score."
    )
  if data is None:
    text = inputs.load_text(run.config)
    if text.sha256 != run.text_sha256:
      raise UserError(
        f"The text of {folder} is not the one it was trained on: what is held out of it now may "
        "have been trained on. Put it back, or name a text with --data."
      )
    parts = [corpus for corpus, _ in text.validation]
  else:
    parts = [corpora.load(data)]
  documents = [document for corpus in parts for document in corpus.documents]
  num_bytes = sum(corpus.num_bytes for corpus in parts)
  if hasattr(objectives.make(run.config), "examples") and not form:
    return _of_examples(run, parts) | {"data": data or "validation", "step": step}
  encoded = run.tokenizer.encode_documents(documents)
  if form:
    nats, correct, tokens = score_exactly(run.model, run.params, encoded, **form)
  else:
    nats, correct, tokens = _score(run, encoded)
  if not tokens:
    raise UserError(f"{data or 'The validation text'} has no token to predict.")
  # An objective that asks for some of the tokens only is scored on their share of the bytes.
  share = tokens / sum(len(ids) - 1 for ids in encoded)
  return {
    "loss": nats / tokens,
    "perplexity": math.exp(nats / tokens),
    "bits_per_byte": nats / math.log(2) / (share * num_bytes),
    "accuracy": correct / tokens,
    "tokens": int(tokens),
    "bytes": num_bytes,
    "data": data or "validation",
    "step": step,
    **form,
  }


def _form(window, stride) -> dict:
  """{} for the run's own rows, else the arguments of `score_exactly`."""
  if window is None and stride is None:
    return {}
  if window is None or (window == 0 and stride is not None):
    raise UserError(f"stride={stride} is that of windows; give their length too: --window=TOKENS.")
  if window == 0:
    return {"window": 0}
  stride = max(1, window // 2) if stride is None else stride
  if window < 0 or not 1 <= stride <= window:
    raise UserError(
      f"window must be at least 1, or 0 for whole documents, and stride from 1 to window; found "
      f"window={window} and stride={stride}."
    )
  return {"window": window, "stride": stride}


def score_exactly(
  model, params, documents: Sequence[np.ndarray], window: int, stride: int = 0
) -> tuple[float, int, int]:
  """Sums over all tokens of documents but the first of each.

  Args:
    documents: int32 ids, each framed as the model was trained.
    window, stride: as of `evaluate`.

  Returns:
    nats, right guesses, tokens.

  Raises:
    UserError: a model that does not read from left to right, or more tokens than the positions it
      has learned.
  """
  token_scores.require_language_model(model)
  if window == 0:
    scored = (found for _, found in token_scores.carried(model, params, documents))
  else:
    longest = token_scores.longest_input(model)
    if longest is not None and window > longest:
      raise UserError(
        f"A window of {window} tokens is too long for a model with {longest} learned positions: "
        f"give --window={longest} or less."
      )
    rows = [row for ids in documents for row in token_scores.windows(ids, window, stride)]
    scored = token_scores.score(model, params, rows)
  nats, correct, tokens = 0.0, 0, 0
  for nats_N, correct_N in scored:
    nats += float(np.sum(nats_N, dtype=np.float64))
    correct, tokens = correct + int(correct_N.sum()), tokens + len(nats_N)
  return nats, correct, tokens


def _of_examples(run, parts) -> dict:
  """The metrics of an objective that makes its own rows of documents."""
  sums = {}
  for part in parts:
    rows = inputs.table(
      objectives.make(run.config), part, run.tokenizer, run.labels, run.config.seq_len
    )
    for name, pair in _sums(run, rows).items():
      sums[name] = np.add(sums.get(name, (0.0, 0.0)), pair)
  values = {name: float(total / max(count, 1.0)) for name, (total, count) in sums.items()}
  return values | {"perplexity": math.exp(values["loss"]), "tokens": int(sums["loss"][1])}


def _score(run, documents) -> tuple[float, float, float]:
  """Sums over all tokens: nats, right guesses, tokens."""
  sums = _sums(run, documents)
  return sums["loss"][0], sums["accuracy"][0], sums["loss"][1]


def _sums(run, source) -> dict[str, np.ndarray]:
  """name -> (sum, count) of the objective's metrics over all rows of one source."""
  config, objective = run.config, objectives.make(run.config)
  eval_step = jax.jit(make_eval_step(run.model, objective))
  batches = pipeline.make_iterator(
    source,
    batch_size=config.batch_size,
    seq_len=config.seq_len,
    seed=0,
    pack=config.data.pack,
    transform=functools.partial(objective.transform, vocabulary=run.tokenizer.vocabulary),
    epochs=1,
  )
  params, totals = jax.device_put(run.params), {}
  for rows in batches:
    batch = {name: jnp.asarray(x) for name, x in rows.items() if name != "document_ids"}
    for name, pair in jax.device_get(eval_step(params, batch)).items():
      totals[name] = totals.get(name, 0.0) + np.array(pair, np.float64)
  return totals
