"""Span corruption: spans of a text are cut out of the source, and the target says what they were.

  text    Thank you for inviting me to your party last week
  source  Thank you <0> me to your party <1> week <end>
  target  <0> for inviting <1> last <end>

Source: Raffel et al. 2020, arXiv:1910.10683, section 3.1.4; numbers and lengths of spans are drawn
as its code does (random_spans_noise_mask), and like there each text begins with a part that stays
and ends with a span.

Legend: B batch, T position in the stored row and in the source, U target position.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from llm_jax import objective
from llm_jax.data import pipeline
from llm_jax.data.special_tokens import SENTINELS
from llm_jax.data.tokenizers import Vocabulary

NOISE = 0.15  # of a text's tokens
MEAN_SPAN = 3.0  # tokens


@dataclasses.dataclass(frozen=True)
class SpanCorruption:
  """Sentinels for spans."""

  KINDS = ("encoder_decoder",)
  HEAD = "language_model"
  FIELDS = ()
  SPECIAL_TOKENS = SENTINELS

  count = staticmethod(objective.count)

  def target_length(self, seq_len: int) -> int:
    """A quarter and eight, where one document takes a fifth: of many short ones, which take more,
    some are left out."""
    return seq_len // 4 + 8

  def transform(self, row: dict[str, np.ndarray], vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """Makes a stored row into pairs of a source and a target, one for each document in it.

    Args:
      row: tokens, segments (0 = padding) and document_ids, int, each (T+1,); key, uint32, what the
        spans are drawn from beside the tokens themselves.
      vocabulary: of the tokenizer, with the sentinels among its special tokens.

    Returns:
      tokens, segments, document_ids of the sources, int32 (T,); targets, target_segments, int32
      (U,), and weights, float32 (U,): 1 at the targets' tokens; left_out, int32: how many documents
      of the row have no pair because there is no place for the whole of it, or nothing to be cut
      out of a single token. U is the `target_length`.
    """
    tokens_T = np.asarray(row["tokens"], np.int32)[:-1]
    segments_T = np.asarray(row["segments"], np.int32)[:-1]
    ids_T = np.asarray(row["document_ids"], np.int32)[:-1]
    random, left_out = pipeline.draws(row), 0
    room = {"tokens": len(tokens_T), "targets": self.target_length(len(tokens_T))}
    found = {
      name: [] for name in ("tokens", "segments", "document_ids", "targets", "target_segments")
    }
    for segment in np.unique(segments_T[segments_T > 0]):
      here = (segments_T == segment) & ~np.isin(tokens_T, (vocabulary.begin_id, vocabulary.end_id))
      if here.sum() < 2:  # nothing could be cut out of it and something be left
        left_out += 1
        continue
      source, target = corrupt(tokens_T[here].tolist(), vocabulary, random)
      parts = (("tokens", source), ("targets", target))
      if any(len(found[name]) + len(part) > room[name] for name, part in parts):
        left_out += 1
        continue
      found["tokens"] += source
      found["segments"] += [segment] * len(source)
      found["document_ids"] += [ids_T[here][0]] * len(source)
      found["targets"] += target
      found["target_segments"] += [segment] * len(target)
    example = {
      name: _filled(
        values, room["targets" if "target" in name else "tokens"], -(name == "document_ids")
      )
      for name, values in found.items()
    }
    weights_U = (example["target_segments"] > 0).astype(np.float32)
    return example | {"weights": weights_U, "left_out": np.int32(left_out)}

  def loss(self, model, params, batch, rngs: dict, train: bool):
    output, collections = objective.answer(model, params, batch, rngs, train)
    sums, metrics = objective.sums(output.logits, collections, batch)
    rows = objective.count(batch)["rows"]
    left_out = jnp.sum(batch["left_out"], dtype=jnp.float32)
    return sums, metrics | {"documents_left_out_a_row": (left_out, rows)}


def corrupt(text: list[int], vocabulary: Vocabulary, random) -> tuple[list[int], list[int]]:
  """The source and the target of one text of two tokens or more."""
  sentinels = _sentinels(vocabulary)
  noise = min(max(round(len(text) * NOISE), 1), len(text) - 1)
  # No more spans than there are sentinels, nor than parts that stay: longer ones instead.
  most = min(len(sentinels), noise, len(text) - noise)
  spans = min(max(round(noise / MEAN_SPAN), 1), most)
  kept, cut = (_parts(n, spans, random) for n in (len(text) - noise, noise))
  # A begin token that is not the end stands before a source, as published ones have it.
  begin, end = [vocabulary.begin_id], [vocabulary.end_id]
  source, target, at = [] if begin == end else begin, [], 0
  for sentinel, stays, goes in zip(sentinels, kept, cut, strict=False):
    source += [*text[at : at + stays], sentinel]
    target += [sentinel, *text[at + stays : at + stays + goes]]
    at += stays + goes
  return source + end, target + end


@functools.lru_cache(maxsize=8)
def _sentinels(vocabulary: Vocabulary) -> tuple[int, ...]:
  """Their ids, the first to be used first."""
  return tuple(vocabulary.id_of(names) for names in reversed(SENTINELS))


def _parts(total: int, parts: int, random) -> list[int]:
  """A number as a sum of so many positive ones, every such sum equally likely."""
  cuts = np.sort(random.permutation(total - 1)[: parts - 1]) + 1
  return np.diff(cuts, prepend=0, append=total).tolist()


def _filled(values, length: int, padding: int) -> np.ndarray:
  return np.array(values + [padding] * (length - len(values)), np.int32)
