"""Decoding: what continues prompts or answers sources, as token ids or as text.

Legend: B row, N new token.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from llm_jax.errors import UserError, unknown
from llm_jax.inference import reading
from llm_jax.inference.beam import Ranking, search, search_from, search_watched
from llm_jax.inference.loop import decode, decoding_from
from llm_jax.inference.options import Options
from llm_jax.inference.rules import NONE_ALLOWED
from llm_jax.inference.texts import Text, stopped

_CHUNK = 16  # tokens between two looks at what was made, where somebody wants to look


@dataclasses.dataclass(frozen=True)
class Generated:
  """What a row has made, or a piece of it; comes back with `return_log_probs`.

  Attributes:
    ids: the new tokens.
    text: they as text; None without a tokenizer.
    log_probs: the model's log-probability of each, before any option changes it.
    score: of a beam's row, by which it was chosen: the sum of its log-probabilities as the options
      make them, divided by its length to the power of length_penalty; else None.
  """

  ids: list[int]
  text: str | None = None
  log_probs: list[float] | None = None
  score: float | None = None


def generate(
  model,
  params,
  prompts,
  *,
  tokenizer=None,
  callback: Callable[[list], None] | None = None,
  **options,
) -> list:
  """Continues each prompt; of an encoder-decoder, answers each source.

  Args:
    model: a decoder or an encoder-decoder from `llm_jax.build`.
    params: its parameters.
    prompts: lists of token ids of any lengths, taken as they are, or strings if there is a
      tokenizer.
    tokenizer: turns strings into ids, with the marks of a document that the model was trained with
      (a prompt stands behind the first, a source between both), and back; its end token is the
      default of eos_token_id. A source may hold masks and sentinels by their names, as in "to be
      <extra_id_0> to be"; answers show special tokens other than the end, sentinels among them.
    callback: is called with each list of pieces that `stream` would yield.
    **options: the fields of `Options`.

  Returns:
    The new ids of each row, or the new text; the end token is included when it was made. With
    return_log_probs: a `Generated` each. Rows of one prompt stand together.

  Raises:
    UserError: an empty prompt, ids outside the vocabulary, an option out of range, more tokens
      than the model has learned positions for, or a row for which the options forbid every token.
  """
  options = _options(options, tokenizer)
  rows = _encode(model, prompts, tokenizer)
  if callback is None and not options.stops:
    made = next(_chunks(model, params, rows, options, options.max_new_tokens))
    if tokenizer is not None:
      special = _answers(model)
      made = [
        dataclasses.replace(row, text=tokenizer.decode(row.ids, special, before))
        for row, before in zip(made, _before(model, rows, options), strict=True)
      ]
  else:
    parts = []
    for pieces in _pieces(model, params, rows, options, tokenizer, _CHUNK):
      if callback is not None:
        callback(_shown(pieces, options, tokenizer))
      parts.append(pieces)
    made = [_joined(row) for row in zip(*parts, strict=True)]
  return _shown(made, options, tokenizer)


def stream(
  model, params, prompts, *, tokenizer=None, chunk: int = _CHUNK, **options
) -> Iterator[list]:
  """`generate` in pieces: yields what each row has gained, every `chunk` tokens.

  Pieces are lists of ids, or strings that never end inside a character if there is a tokenizer;
  joined they are what `generate` returns. The device hands over one array a chunk. A beam knows its
  rows when it is done, and yields them whole.
  """
  options = _options(options, tokenizer)
  rows = _encode(model, prompts, tokenizer)
  for pieces in _pieces(model, params, rows, options, tokenizer, chunk):
    yield _shown(pieces, options, tokenizer)


def check(model, prompts, *, tokenizer=None, **options) -> None:
  """Raises the UserError that `generate` would raise for these arguments before it decodes."""
  _check(model, _encode(model, prompts, tokenizer), _options(options, tokenizer))


def _options(given: dict, tokenizer) -> Options:
  valid = [field.name for field in dataclasses.fields(Options)]
  for name in given:
    if name not in valid:
      raise unknown("option of generate", name, valid)
  if tokenizer is not None:
    given = {"eos_token_id": tokenizer.end_id, **given}
  options = Options(**given)
  if options.stops and tokenizer is None:
    raise UserError("stop_strings need a tokenizer, to see what text the tokens make. Give one.")
  return options


def _encode(model, prompts, tokenizer) -> list[list[int]]:
  if isinstance(prompts, str):
    raise UserError("prompts must be a list; for a single prompt write [prompt].")
  if not any(isinstance(prompt, str) for prompt in prompts):
    return [list(prompt) for prompt in prompts]
  if tokenizer is None:
    raise UserError("prompts hold text, which needs a tokenizer. Give one, or lists of ids.")
  begin, end, encode = [tokenizer.begin_id], [tokenizer.end_id], tokenizer.encode
  if not _answers(model):
    end = []
  else:
    begin = begin if begin != end else []  # a source then has the one behind it alone
    encode = tokenizer.encode_with_gaps
  return [
    begin + encode(prompt) + end if isinstance(prompt, str) else list(prompt) for prompt in prompts
  ]


def _answers(model) -> bool:
  """Whether a model answers a source, and does not go on with a prompt."""
  return model.spec.kind == "encoder_decoder"


def _before(model, rows, options: Options) -> list:
  """What the text of each row that is made goes on with: its prompt, or nothing."""
  copies = range(options.num_return_sequences)
  return [() if _answers(model) else row for row in rows for _ in copies]


def _shown(rows: list[Generated], options: Options, tokenizer) -> list:
  if options.return_log_probs:
    return rows
  return [row.ids if tokenizer is None else row.text for row in rows]


def _joined(pieces: Sequence[Generated]) -> Generated:
  return Generated(
    [token for piece in pieces for token in piece.ids],
    None if pieces[0].text is None else "".join(piece.text for piece in pieces),
    None if pieces[0].log_probs is None else [x for piece in pieces for x in piece.log_probs],
    pieces[0].score,
  )


def _pieces(model, params, rows, options: Options, tokenizer, chunk: int):
  """What each row gains, with its text if there is a tokenizer."""
  if tokenizer is None:
    yield from _chunks(model, params, rows, options, chunk)
    return
  special, stops = _answers(model), options.stops
  before = _before(model, rows, options)
  texts = [Text(tokenizer, special, stops, ids) for ids in before]
  watch = None
  if stops:
    each = before[:: options.num_return_sequences]
    watch = functools.partial(stopped, tokenizer, special, stops, each)
  yield from _chunks(model, params, rows, options, chunk, texts, watch)
  nothing = [] if options.return_log_probs else None
  yield [Generated([], text.flush(), nothing) for text in texts]


def _chunks(model, params, rows, options: Options, chunk: int, texts=None, watch=None):
  """What each row makes, `chunk` tokens at a time; rows whose text has stopped make no more. What a
  beam stops at is told by `watch`."""
  _check(model, rows, options)
  params = jax.device_put(params)  # once, not in each chunk, if they come from the host
  rules = options.rules(model.spec.vocab_size)
  copies = options.beams if options.method == "beam" else options.num_return_sequences
  sizes = options.max_new_tokens, copies
  begin = reading.start(model, params, rows, *sizes, rules.look_back, options.prefix)
  params = reading.unstacked(model, params)
  if options.method == "beam":
    yield _with_text(_searched(model, params, begin, options, rules, watch), texts)
    return
  state, token_B, history = begin
  decoding, left = decoding_from(state, token_B, options.seed, history), options.max_new_tokens
  size = reading.bucket(min(chunk, left))
  while left > 0:
    limit = min(chunk, left)
    decoding, *made = decode(
      model, params, decoding, rules, limit, size, log_probs=options.return_log_probs
    )
    (tokens_BN, log_probs_BN), done_B = jax.device_get((made, decoding.done_B))
    stuck_B = (tokens_BN == NONE_ALLOWED).any(1)
    if stuck_B.any():
      raise _nothing_allowed(int(stuck_B.argmax()) // copies)
    yield _with_text(_generated(tokens_BN, log_probs_BN), texts)
    if options.stops:
      done_B = done_B | [text.stopped for text in texts]
      decoding = decoding.replace(done_B=jax.device_put(done_B))
    left = 0 if done_B.all() else left - limit


def _searched(model, params, begin, options: Options, rules, watch) -> list[Generated]:
  """The best rows of a beam search for each prompt."""
  size = reading.bucket(options.max_new_tokens)
  begin = search_from(*begin, options.beams, size, options.return_log_probs)
  ranking = Ranking.of(options.length_penalty, options.early_stopping, options.max_new_tokens)
  given = model, params, begin, rules, ranking, options.max_new_tokens
  found = (search(*given) if watch is None else search_watched(*given, watch)).ended
  found = jax.device_get(jax.tree.map(lambda a: a[:, : options.num_return_sequences], found))
  missing_B = ~np.isfinite(found.score_BK).all(1)
  if missing_B.any():
    raise _nothing_allowed(int(missing_B.argmax()), options.num_return_sequences)
  flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found)
  rows = _generated(flat.tokens_BKN, flat.log_probs_BKN)
  scores = flat.score_BK.tolist()
  return [dataclasses.replace(row, score=s) for row, s in zip(rows, scores, strict=True)]


def _generated(tokens_BN, log_probs_BN) -> list[Generated]:
  """The tokens made, and their log-probabilities if there are any."""
  made_BN = tokens_BN >= 0
  ids = [row[made].tolist() for row, made in zip(tokens_BN, made_BN, strict=True)]
  if log_probs_BN is None:
    return [Generated(row) for row in ids]
  each = [row[made].tolist() for row, made in zip(log_probs_BN, made_BN, strict=True)]
  return [Generated(row, log_probs=values) for row, values in zip(ids, each, strict=True)]


def _with_text(rows: list[Generated], texts: list[Text] | None) -> list[Generated]:
  """The rows with their text, and without the tokens behind a stop string."""
  if texts is None:
    return rows
  shown = []
  for row, text in zip(rows, texts, strict=True):
    count, piece = text.push(row.ids)
    log_probs = None if row.log_probs is None else row.log_probs[:count]
    shown.append(Generated(row.ids[:count], piece, log_probs, row.score))
  return shown


def _nothing_allowed(prompt: int, count: int = 1) -> UserError:
  return UserError(
    f"Prompt {prompt} has no {'continuation' if count == 1 else f'{count} continuations'}: the "
    "options forbid every token somewhere (suppress_tokens, logit_bias, no_repeat_ngram_size, "
    "min_new_tokens, forced tokens), or the model's logits are no numbers."
  )


def _check(model, rows, options: Options) -> None:
  spec = model.spec
  if spec.kind == "encoder" or "language_model" not in spec.heads:
    raise UserError(
      "generate needs a decoder or encoder_decoder with a language model head, found "
      f"model.kind={spec.kind!r} with model.heads={spec.heads}."
    )
  if options.prefix and spec.kind != "decoder":
    raise UserError(f"prefix is for a decoder's prompts; found model.kind={spec.kind!r}.")
  if not rows:
    raise UserError("prompts is empty: give at least one prompt.")
  options.check_vocabulary(spec.vocab_size)
  for index, row in enumerate(rows):
    if not row:
      raise UserError(f"Prompt {index} is empty: a model continues at least one token.")
    wrong = [token for token in row if not 0 <= token < spec.vocab_size]
    if wrong:
      raise UserError(
        f"Prompt {index} has token {wrong[0]}, outside the model's vocabulary of "
        f"{spec.vocab_size}. Was it made with another tokenizer?"
      )
    two_stacks = spec.kind == "encoder_decoder"  # each with positions of its own
    total = (max if two_stacks else sum)((len(row), options.max_new_tokens))
    if spec.positions == "learned" and total > spec.max_length:
      raise UserError(
        f"Prompt {index} has {len(row)} tokens and max_new_tokens is {options.max_new_tokens}, "
        f"{'at most' if two_stacks else 'together'} {total}; the model has learned "
        f"{spec.max_length} positions. Shorten one of them."
      )
