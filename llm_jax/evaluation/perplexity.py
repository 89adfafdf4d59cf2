"""How well a trained run predicts a text: perplexity and bits per byte.

Legend: B batch, T position.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp

from llm_jax.data import corpora, pipeline, tokenizers
from llm_jax.errors import UserError
from llm_jax.models import build
from llm_jax.training import checkpoints, inputs, workdir


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
  folder = Path(folder)
  config = workdir.read_config(folder)
  tokenizer = tokenizers.load(folder / inputs.TOKENIZER)
  model = inputs.model(config, tokenizer)
  params = checkpoints.load_params(folder, step)
  checkpoints.check_shapes(params, build.abstract_params(model), folder)
  if data is None:
    parts = [corpus for corpus, _ in inputs.load_text(config).validation]
  else:
    parts = [corpora.load(data)]
  documents = [document for corpus in parts for document in corpus.documents]
  num_bytes = sum(corpus.num_bytes for corpus in parts)
  nats, correct, tokens = _score(model, params, config, tokenizer.encode_documents(documents))
  if not tokens:
    raise UserError(f"{data or 'The validation text'} has no token to predict.")
  return {
    "loss": nats / tokens,
    "perplexity": math.exp(nats / tokens),
    "bits_per_byte": nats / math.log(2) / num_bytes,
    "accuracy": correct / tokens,
    "tokens": int(tokens),
    "bytes": num_bytes,
    "data": data or "validation",
    "step": step,
  }


def _score(model, params, config, documents) -> tuple[float, float, float]:
  """Sums over all tokens: nats, right guesses, tokens."""
  objective = inputs.objective(config.objective)

  @jax.jit
  def score(params, batch):
    return objective.loss(model, params, batch, {}, train=False)[1]

  batches = pipeline.make_iterator(
    documents,
    batch_size=config.batch_size,
    seq_len=config.seq_len,
    seed=0,
    pack=config.data.pack,
    transform=objective.transform,
    epochs=1,
  )
  params, nats, correct, tokens = jax.device_put(params), 0.0, 0.0, 0.0
  for rows in batches:
    batch = {name: jnp.asarray(x) for name, x in rows.items() if name != "document_ids"}
    sums = jax.device_get(score(params, batch))
    nats += float(sums["loss"][0])
    correct += float(sums["accuracy"][0])
    tokens += float(sums["loss"][1])
  return nats, correct, tokens
