"""How well a trained run predicts a text: perplexity and bits per byte.

Legend: B batch, T position.
"""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp

from llm_jax import objective as objectives
from llm_jax.data import corpora, pipeline
from llm_jax.errors import UserError
from llm_jax.training import inputs, runs
from llm_jax.training.step import make_eval_step


def evaluate(folder: Path | str, data: str | None = None, step: str = "latest") -> dict:
  """Scores every token of a text, in the run's own rows of `seq_len` tokens.

  Args:
    folder: a run folder.
    data: path of the text, as `config.data.path`; None: the run's validation text.
    step: the checkpoint: a number, "latest" or "best".

  Returns:
    loss (nats per token), perplexity, bits_per_byte, accuracy, tokens, bytes, data, step.

  Raises:
    UserError: no run or text there, or a checkpoint that does not fit.
  """
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
  encoded = run.tokenizer.encode_documents(documents)
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
  }


def _score(run, documents) -> tuple[float, float, float]:
  """Sums over all tokens: nats, right guesses, tokens."""
  config, objective = run.config, objectives.make(run.config)
  eval_step = jax.jit(make_eval_step(run.model, objective))
  batches = pipeline.make_iterator(
    documents,
    batch_size=config.batch_size,
    seq_len=config.seq_len,
    seed=0,
    pack=config.data.pack,
    transform=functools.partial(objective.transform, vocabulary=run.tokenizer.vocabulary),
    epochs=1,
  )
  params, nats, correct, tokens = jax.device_put(run.params), 0.0, 0.0, 0.0
  for rows in batches:
    batch = {name: jnp.asarray(x) for name, x in rows.items() if name != "document_ids"}
    sums = jax.device_get(eval_step(params, batch))
    nats += float(sums["loss"][0])
    correct += float(sums["accuracy"][0])
    tokens += float(sums["loss"][1])
  return nats, correct, tokens
