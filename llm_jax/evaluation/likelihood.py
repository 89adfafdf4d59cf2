"""How likely a model finds given texts: continuations of a context, whole texts, and choices.

Log-likelihoods are in nats. A decoder reads the token that begins its documents, the context, the
continuation; an encoder-decoder has the context for its source and the continuation for its target.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from llm_jax.errors import UserError
from llm_jax.evaluation.token_scores import (
  Row,
  carried,
  longest_input,
  require_language_model,
  score,
  windows,
)


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """Of one continuation.

  Attributes:
    nats: its log-likelihood, at most 0.
    tokens: how many it has.
    greedy: whether greedy decoding would make it.
    cut: tokens of the context that the model had no positions for: the earliest were left out.
  """

  nats: float
  tokens: int
  greedy: bool
  cut: int


def continuations(model, params, tokenizer, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
  """log p(continuation | context) of each pair of strings.

  The two are joined as they stand, and encoded together. Tokens before the first that the
  continuation changes are the context: so a space between them goes with the word behind it, on
  whichever side it stands.

  Raises:
    UserError: an empty continuation, one longer than the model's learned positions, or a model that
      gives no text a probability.
  """
  require_language_model(model, ("decoder", "encoder_decoder"))
  rows, cuts = [], []
  make = _pair if model.spec.kind == "encoder_decoder" else _joined
  for index, (context, continuation) in enumerate(pairs):
    if not continuation:
      raise UserError(f"Continuation {index} is empty: there is nothing to score.")
    row, cut = make(model, tokenizer, context, continuation, index)
    rows.append(row)
    cuts.append(cut)
  return [
    Likelihood(-float(np.sum(nats_N, dtype=np.float64)), len(nats_N), bool(correct_N.all()), cut)
    for (nats_N, correct_N), cut in zip(score(model, params, rows), cuts, strict=True)
  ]


def rolling(model, params, tokenizer, texts: Sequence[str]) -> list[float]:
  """log p of each whole text behind the token that begins documents, the end token not included.

  A model that has learned positions reads a longer text in blocks, each with the last token of the
  one before for its context; all others read it in one pass, whatever its length.

  Raises:
    UserError: an empty text, or a model that is no decoder with a language model head.
  """
  require_language_model(model)
  for index, text in enumerate(texts):
    if not text:
      raise UserError(f"Text {index} is empty: there is nothing to score.")
  encoded = [np.asarray([tokenizer.begin_id, *tokenizer.encode(text)], np.int32) for text in texts]
  sums, longest = [0.0] * len(texts), longest_input(model)
  if longest is None:
    pieces = carried(model, params, encoded)
  else:
    cut = [(i, row) for i, ids in enumerate(encoded) for row in windows(ids, longest, longest)]
    scored = score(model, params, [row for _, row in cut])
    pieces = zip((i for i, _ in cut), scored, strict=True)
  for index, (nats_N, _) in pieces:
    sums[index] -= float(np.sum(nats_N, dtype=np.float64))
  return sums


def multiple_choice(
  model, params, tokenizer, items: Sequence[tuple[str, Sequence[str], int]]
) -> dict:
  """Chooses for each item the likeliest of its continuations; of equals, the first.

  Args:
    items: (context, choices, index of the right choice).

  Returns:
    acc: share of items whose right choice has the largest log-likelihood; acc_norm: the largest
      log-likelihood for each of its UTF-8 bytes, so that long choices stand a chance;
      acc_norm_tokens: for each of its tokens; examples; cut: how many contexts were too long for
      the model and were cut at their beginning.

  Raises:
    UserError: no items, an item without choices, or an index outside of them.
  """
  if not items:
    raise UserError("There are no items to choose in.")
  for index, (_, choices, answer) in enumerate(items):
    if not 0 <= answer < len(choices):
      raise UserError(
        f"Item {index} has {len(choices)} choices, and its answer is number {answer}, counted "
        "from 0."
      )
  pairs = [(context, choice) for context, choices, _ in items for choice in choices]
  found = iter(continuations(model, params, tokenizer, pairs))
  right, cut = np.zeros(3), 0
  for _, choices, answer in items:
    own = [next(found) for _ in choices]
    nats = np.array([likelihood.nats for likelihood in own])
    num_bytes = np.array([len(choice.encode()) for choice in choices])
    tokens = np.array([likelihood.tokens for likelihood in own])
    right += [np.argmax(nats / length) == answer for length in (1, num_bytes, tokens)]
    cut += any(likelihood.cut for likelihood in own)
  names = ("acc", "acc_norm", "acc_norm_tokens")
  shares = {name: float(n) / len(items) for name, n in zip(names, right, strict=True)}
  return shares | {"examples": len(items), "cut": cut}


def _joined(model, tokenizer, context, continuation, index):
  """A decoder's row, and how many tokens of its context were left out."""
  before, whole = (tokenizer.encode(text) for text in (context, context + continuation))
  shared = next(
    (i for i, pair in enumerate(zip(before, whole, strict=False)) if pair[0] != pair[1]),
    min(len(before), len(whole)),
  )
  # Where the continuation only ends what the context began, its last token is what there is to say.
  ids, first = np.asarray([tokenizer.begin_id, *whole], np.int32), min(shared, len(whole) - 1) + 1
  longest = longest_input(model)
  cut = 0 if longest is None else max(0, len(ids) - 1 - longest)
  if cut >= first:
    raise UserError(
      f"Continuation {index} has {len(ids) - first} tokens, but the model has learned {longest} "
      "positions. Shorten it."
    )
  return Row(ids[cut:], first - cut), cut


def _pair(model, tokenizer, context, continuation, index):
  """An encoder-decoder's row; its source is never cut."""
  begin, end = [tokenizer.begin_id], [tokenizer.end_id]
  source = (begin if begin != end else []) + tokenizer.encode(context) + end
  ids = [model.spec.decoder_start_id, *tokenizer.encode(continuation)]
  longest = longest_input(model)
  if longest is not None and max(len(source), len(ids) - 1) > longest:
    raise UserError(
      f"Pair {index} has {len(source)} source and {len(ids) - 1} target tokens, but the model has "
      f"learned {longest} positions for each. Shorten it."
    )
  return Row(np.asarray(ids, np.int32), 1, np.asarray(source, np.int32)), 0
