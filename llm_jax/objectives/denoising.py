"""Denoising: a text is damaged in one or several ways, and the whole of it is written again.

  infilling  spans, 30 % of the tokens, each become one mask; lengths are Poisson with mean 3, and
             a span of length 0 puts a mask where nothing is missing
  sentences  the sentences stand in another order
  masking    tokens become a mask each
  deletion   tokens are gone, with nothing in their place; one stays at least
  rotation   the text begins at any of its tokens, and what was before that stands at its end

What several options ask for is done in this order, but sentences come first. The default is the
paper's final choice, infilling and sentences.

A sentence ends with a piece that ends with a full stop, a question or an exclamation mark, quotes,
brackets and white space behind it aside; of several such pieces in a row with the last.

Source: Lewis et al. 2019, arXiv:1910.13461, sections 2.2 and 4.2.

Legend: T position in the stored row, N tokens of a text, K spans.
"""

import dataclasses

import numpy as np

from llm_jax import objective
from llm_jax.data import pipeline
from llm_jax.data.special_tokens import MASK
from llm_jax.data.tokenizers import Vocabulary
from llm_jax.errors import UserError

MEAN_SPAN = 3.0  # tokens


@dataclasses.dataclass(frozen=True)
class Denoising:
  """A damaged text and the whole one.

  Attributes:
    infilling, masking, deletion: shares of a text's tokens.
    sentences, rotation: whether this is done.
  """

  infilling: float = 0.3
  sentences: bool = True
  masking: float = 0.0
  deletion: float = 0.0
  rotation: bool = False

  KINDS = ("encoder_decoder",)
  HEAD = "language_model"
  FIELDS = ()
  SPECIAL_TOKENS = (MASK,)

  count = staticmethod(objective.count)

  def __post_init__(self):
    for name in ("infilling", "masking", "deletion"):
      if not 0 <= getattr(self, name) < 1:
        raise UserError(
          f"objective_options.{name} is a share of the tokens, from 0 to less than 1; found "
          f"{getattr(self, name)}."
        )
    if not any(dataclasses.astuple(self)):
      raise UserError(
        "The denoising objective is told to do no damage: set one of objective_options."
        f"{', '.join(field.name for field in dataclasses.fields(self))}."
      )

  def target_length(self, seq_len: int) -> int:
    return seq_len

  def transform(self, row: dict[str, np.ndarray], vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """Makes a stored row into pairs of a source and a target, one for each document in it.

    Both end with the end token, and a begin token that is another stands before the source, but
    for a row inside of one document: that is cut at both of its ends and has room for neither.

    Args:
      row: tokens, segments (0 = padding) and document_ids, int, each (T+1,); key, uint32, what the
        damage is drawn from beside the tokens themselves.
      vocabulary: of the tokenizer, with the mask among its special tokens.

    Returns:
      tokens, segments, document_ids of the sources, int32 (T,); targets, target_segments, int32
      (T,), and weights, float32 (T,): 1 at the targets' tokens.
    """
    tokens_T, segments_T, ids_T = (
      np.asarray(row[name], np.int32)[:-1] for name in ("tokens", "segments", "document_ids")
    )
    random = pipeline.draws(row)
    frame_T = np.isin(tokens_T, (vocabulary.begin_id, vocabulary.end_id))
    found = {name: [] for name in ("tokens", "segments", "document_ids")}
    found |= {name: [] for name in ("targets", "target_segments")}
    for segment in np.unique(segments_T[segments_T > 0]):
      here_T = segments_T == segment
      text_N, framed = tokens_T[here_T & ~frame_T], np.sum(here_T & frame_T)
      if not len(text_N):
        continue
      begins = framed > 1 and vocabulary.begin_id != vocabulary.end_id
      end = [vocabulary.end_id] * int(framed > 0)
      source = [
        *[vocabulary.begin_id] * int(begins),
        *self.damaged(text_N, vocabulary, random),
        *end,
      ]
      target = [*text_N, *end]
      found["tokens"] += source
      found["segments"] += [segment] * len(source)
      found["document_ids"] += [ids_T[here_T][0]] * len(source)
      found["targets"] += target
      found["target_segments"] += [segment] * len(target)
    example = {name: np.full(len(tokens_T), -(name == "document_ids"), np.int32) for name in found}
    for name, values in found.items():
      example[name][: len(values)] = values
    return example | {"weights": (example["target_segments"] > 0).astype(np.float32)}

  def damaged(self, text_N: np.ndarray, vocabulary: Vocabulary, random) -> np.ndarray:
    """The tokens of one text after all that the options ask for; never more of them."""
    mask = vocabulary.id_of(MASK)
    if self.sentences:
      text_N = _sentences_moved(text_N, vocabulary, random)
    if self.infilling:
      text_N = _infilled(text_N, self.infilling, mask, random)
    if self.masking:
      (ordinary,) = np.nonzero(text_N != mask)
      text_N = text_N.copy()
      text_N[_some(ordinary, self.masking, random)] = mask
    if self.deletion:  # of all but one: an empty source says nothing, not even where it is
      gone = _some(np.arange(len(text_N)), self.deletion, random)[: len(text_N) - 1]
      text_N = np.delete(text_N, gone)
    if self.rotation:
      text_N = np.roll(text_N, -random.randint(len(text_N)))
    return text_N

  def loss(self, model, params, batch, rngs: dict, train: bool):
    output, collections = objective.answer(model, params, batch, rngs, train)
    return objective.sums(output.logits, collections, batch)


def _sentences_moved(text_N, vocabulary, random):
  ends_N = vocabulary.ends_sentence(text_N)
  last_N = ends_N & ~np.append(ends_N[1:], False)
  sentences = np.split(text_N, np.flatnonzero(last_N[:-1]) + 1)
  return np.concatenate([sentences[i] for i in random.permutation(len(sentences))])


def _infilled(text_N, rate: float, mask: int, random):
  """Spans do not overlap; every order of spans and of the tokens that stay is equally likely."""
  hidden = _number(rate * len(text_N), random)
  lengths = []
  while sum(lengths) < hidden:
    lengths.append(random.poisson(MEAN_SPAN))
  if not lengths:
    return text_N
  lengths[-1] -= sum(lengths) - hidden
  spans = [length for length in lengths if length]
  # Of the empty ones no more than the others leave places for, which only a text of a few tokens
  # could have: so the source is never longer than the text.
  spans += [0] * min(len(lengths) - len(spans), hidden - len(spans))
  length_K = random.permutation(spans)  # or a last one, made shorter, would always be at the end
  filled_N = np.full(len(text_N) - hidden + len(spans), mask, text_N.dtype)
  place_K = np.sort(random.permutation(len(filled_N))[: len(spans)])
  before_K = np.cumsum(length_K) - length_K
  start_K = place_K - np.arange(len(spans)) + before_K  # in the text
  gone = np.repeat(start_K - before_K, length_K) + np.arange(hidden)
  filled_N[np.delete(np.arange(len(filled_N)), place_K)] = np.delete(text_N, gone)
  return filled_N


def _some(places, rate: float, random):
  return random.permutation(places)[: _number(rate * len(places), random)]


def _number(expected: float, random) -> int:
  """A whole number that is this one on average."""
  return int(expected + random.random_sample())
