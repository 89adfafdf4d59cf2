"""Decoding: prompts go in through the parallel form, then one compiled loop makes the tokens.

The last token of a prompt is the first input of the loop, so the parallel form needs no logits
and XLA drops the head from it. Lengths are rounded up to powers of two: prompts, caches and
numbers of new tokens of one bucket share their compiled programs.

Legend: B batch, T position, N new token, E end tokens, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from llm_jax.errors import UserError, unknown
from llm_jax.inference.sampling import sample
from llm_jax.models.stack import unstack_blocks

_METHODS = ("greedy", "sample")
_CHUNK = 512  # prompt tokens in one call: bounds the memory of long prompts
_SMALLEST_BUCKET = 16


@dataclasses.dataclass(frozen=True)
class Options:
  """What `generate` and `stream` share; the names are transformers'.

  Attributes:
    max_new_tokens: tokens to make, the end token included.
    method: "greedy" (the likeliest token) or "sample".
    temperature, top_k, top_p: of "sample"; top_k=0 and top_p=1 keep every token.
    eos_token_id: the token, or tokens, that end a row; None: none does.
    num_return_sequences: samples for each prompt, next to each other in the result.
    seed: of "sample". A row's draws depend on the seed and its own number only.
  """

  max_new_tokens: int = 128
  method: str = "greedy"
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  eos_token_id: int | Sequence[int] | None = None
  num_return_sequences: int = 1
  seed: int = 0

  def __post_init__(self):
    if self.method not in _METHODS:
      raise unknown("method", self.method, _METHODS)
    for name, least in (("max_new_tokens", 1), ("top_k", 0), ("num_return_sequences", 1)):
      if getattr(self, name) < least:
        raise UserError(f"{name} must be at least {least}, found {getattr(self, name)}.")
    if self.method == "sample" and not self.temperature > 0:
      raise UserError(
        f"temperature must be above 0, found {self.temperature}. For the likeliest token every "
        "time use method='greedy'."
      )
    if not 0 < self.top_p <= 1:
      raise UserError(f"top_p must lie above 0 and not above 1, found {self.top_p}.")
    if self.method == "greedy" and self.num_return_sequences > 1:
      raise UserError(
        f"method='greedy' makes one sequence, found num_return_sequences="
        f"{self.num_return_sequences}. Use method='sample'."
      )

  @property
  def rule(self) -> "Rule":
    if self.method == "greedy":
      return Rule()
    return Rule(
      jnp.float32(self.temperature),
      jnp.int32(self.top_k) if self.top_k else None,
      jnp.float32(self.top_p) if self.top_p < 1 else None,
    )


@struct.dataclass
class Rule:
  """How a token is chosen: numbers are traced, so that changing one compiles nothing; what is
  None is left out of the program. No temperature is greedy."""

  temperature: jax.Array | None = None
  top_k: jax.Array | None = None
  top_p: jax.Array | None = None

  def choose(self, key_B, logits_BV):
    if self.temperature is None:
      return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    return sample(key_B, logits_BV, self.temperature, self.top_k, self.top_p)


@struct.dataclass
class Decoding:
  """Where a batch stands between two tokens.

  Attributes:
    state: the model's, after every token before `token_B`.
    token_B: the last token of each row, not yet read.
    done_B: rows that have made an end token.
    key_B: random key of each row.
    step: tokens made so far.
  """

  state: struct.PyTreeNode
  token_B: jax.Array
  done_B: jax.Array
  key_B: jax.Array
  step: jax.Array


def generate(model, params, prompts, *, tokenizer=None, **options) -> list:
  """Continues each prompt; of an encoder-decoder, answers each source.

  Args:
    model: a decoder or an encoder-decoder from `llm_jax.build`.
    params: its parameters.
    prompts: lists of token ids of any lengths, or strings if there is a tokenizer.
    tokenizer: turns strings into ids, with the marks of a document that the model was trained with
      (a prompt stands behind the first, a source between both), and back; its end token is the
      default of eos_token_id. Answers show other special tokens, for sentinels are part of them.
    **options: the fields of `Options`.

  Returns:
    The new ids of each row, or the new text; the end token is included when it was made.

  Raises:
    UserError: an empty prompt, ids outside the vocabulary, an option out of range, or more tokens
      than the model has learned positions for.
  """
  options = _options(options, tokenizer)
  rows = _encode(model, prompts, tokenizer)
  made = next(_chunks(model, params, rows, options, options.max_new_tokens))
  return [tokenizer.decode(row, special=_answers(model)) for row in made] if tokenizer else made


def stream(model, params, prompts, *, tokenizer=None, chunk: int = 16, **options) -> Iterator[list]:
  """`generate` in pieces: yields what each row has gained, every `chunk` tokens.

  Pieces are lists of ids, or strings that never end inside a character if there is a tokenizer;
  joined they are what `generate` returns. The device hands over one array a chunk.
  """
  options = _options(options, tokenizer)
  rows = _encode(model, prompts, tokenizer)
  if tokenizer is None:
    yield from _chunks(model, params, rows, options, chunk)
    return
  count = len(rows) * options.num_return_sequences
  texts = [tokenizer.stream(special=_answers(model)) for _ in range(count)]
  for made in _chunks(model, params, rows, options, chunk):
    yield ["".join(map(text.push, row)) for text, row in zip(texts, made, strict=True)]
  yield [text.flush() for text in texts]


def _options(given: dict, tokenizer) -> Options:
  valid = [field.name for field in dataclasses.fields(Options)]
  for name in given:
    if name not in valid:
      raise unknown("option of generate", name, valid)
  if tokenizer is not None:
    given = {"eos_token_id": tokenizer.end_id, **given}
  return Options(**given)


def _encode(model, prompts, tokenizer) -> list[list[int]]:
  if isinstance(prompts, str):
    raise UserError("prompts must be a list; for a single prompt write [prompt].")
  if tokenizer is None:
    return [list(prompt) for prompt in prompts]
  begin, end = [tokenizer.begin_id], [tokenizer.end_id]
  if not _answers(model):
    return [begin + tokenizer.encode(prompt) for prompt in prompts]
  if begin == end:  # a source then has the one behind it alone
    begin = []
  return [begin + tokenizer.encode(prompt) + end for prompt in prompts]


def _answers(model) -> bool:
  """Whether a model answers a source, and does not go on with a prompt."""
  return model.spec.kind == "encoder_decoder"


def _chunks(model, params, rows, options: Options, chunk: int) -> Iterator[list[list[int]]]:
  """What each row makes, `chunk` tokens at a time."""
  _check(model, rows, options)
  params = jax.device_put(params)  # once, not in each chunk, if they come from the host
  decoding = _start(model, params, rows, options)
  ends = options.eos_token_id
  ends_E = np.atleast_1d(np.asarray(-1 if ends is None else ends, np.int32))
  params = unstacked(model, params)
  left, size = options.max_new_tokens, _bucket(min(chunk, options.max_new_tokens))
  while left > 0:
    limit = min(chunk, left)
    decoding, tokens_BN = decode(model, params, decoding, options.rule, ends_E, limit, size)
    tokens_BN, done_B = jax.device_get((tokens_BN, decoding.done_B))
    yield [row[row >= 0].tolist() for row in tokens_BN]
    left = 0 if done_B.all() else left - limit


def _check(model, rows, options: Options) -> None:
  spec = model.spec
  if spec.kind == "encoder" or "language_model" not in spec.heads:
    raise UserError(
      "generate needs a decoder or encoder_decoder with a language model head, found "
      f"model.kind={spec.kind!r} with model.heads={spec.heads}."
    )
  if not rows:
    raise UserError("prompts is empty: give at least one prompt.")
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


def _start(model, params, rows, options: Options) -> Decoding:
  """The prompts read, all but their last tokens; or the sources, with the start token to come."""
  if model.spec.kind == "encoder_decoder":
    state = read_sources(model, params, *padded(rows), _bucket(options.max_new_tokens))
    last_B = [model.spec.decoder_start_id] * len(rows)
  else:
    longest = max(map(len, rows))
    state = initial_state(model, len(rows), _bucket(longest + options.max_new_tokens))
    state = prefill(model, params, state, *padded([row[:-1] for row in rows]))
    last_B = [row[-1] for row in rows]
  if options.num_return_sequences > 1:
    state = jax.tree.map(lambda a: jnp.repeat(a, options.num_return_sequences, axis=0), state)
  return decoding_from(state, np.repeat(last_B, options.num_return_sequences), options.seed)


def decoding_from(state, token_B, seed: int = 0) -> Decoding:
  """Where decoding starts: a state, and the token of each row that comes next."""
  token_B = jnp.asarray(token_B, jnp.int32)
  done_B = jnp.zeros(token_B.shape, bool)
  return Decoding(state, token_B, done_B, _keys(seed, len(token_B)), jnp.int32(0))


@functools.partial(jax.jit, static_argnames="batch")
def _keys(seed, batch: int):
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(batch))


def _bucket(length: int) -> int:
  """The power of two from `length` on."""
  return max(_SMALLEST_BUCKET, 1 << (length - 1).bit_length())


def padded(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
  """Prompts as (tokens_BT, segments_BT), padded at the right to no columns, a bucket, or whole
  chunks."""
  longest = max(map(len, rows))
  columns = -(-longest // _CHUNK) * _CHUNK if longest > _CHUNK else _bucket(longest)
  tokens_BT = np.zeros((len(rows), columns if longest else 0), np.int32)
  segments_BT = np.zeros_like(tokens_BT)
  for index, row in enumerate(rows):
    tokens_BT[index, : len(row)] = row
    segments_BT[index, : len(row)] = 1
  return tokens_BT, segments_BT


@functools.partial(jax.jit, static_argnames=("model", "batch", "max_length"))
def initial_state(model, batch: int, max_length: int):
  """The model's state before the first token, its caches in the model's compute type."""
  return model.initial_state(batch, max_length, dtype=jnp.dtype(model.dtype))


@functools.partial(jax.jit, static_argnames=("model", "max_length"))
def read_sources(model, params, source_BS, segments_BS, max_length: int):
  """The state of an encoder-decoder before the first of `max_length` target tokens: it holds what
  the layers make of the memory, and the memory itself is needed no more."""
  dtype = jnp.dtype(model.dtype)
  state = model.initial_state(*source_BS.shape[:1], max_length, source_BS.shape[1], dtype=dtype)
  variables = {"params": params}
  memory_BSD = model.apply(variables, source_BS, segments_BS, method="encode")
  padding_B1 = jnp.zeros_like(source_BS[:, :1])  # a token that is none leaves no other trace
  return model.apply(
    variables, padding_B1, memory_BSD, segments_BS, padding_B1, state, method="decode"
  ).state


def prefill(model, params, state, tokens_BT, segments_BT):
  """The state after these tokens, read by the parallel form in chunks; `state` is used up."""
  for start in range(0, tokens_BT.shape[1], _CHUNK):
    chunk = np.s_[:, start : start + _CHUNK]
    state = _read(model, params, state, tokens_BT[chunk], segments_BT[chunk])
  return state


@functools.partial(jax.jit, static_argnames="model", donate_argnames="state")
def _read(model, params, state, tokens_BT, segments_BT):
  return model.apply({"params": params}, tokens_BT, segments=segments_BT, state=state).state


@functools.partial(jax.jit, static_argnames="model")
def unstacked(model, params):
  """The parameters as `decode` wants them, cut into blocks once and not in each call."""
  return {**params, "stack": unstack_blocks(params["stack"], model.spec.decoder_stages)}


@functools.partial(jax.jit, static_argnames=("model", "size"), donate_argnames="decoding")
def decode(model, params, decoding: Decoding, rule: Rule, ends_E, limit, size: int):
  """Makes up to `limit` tokens a row in one loop over the state.

  Args:
    model, params: the decoder, its parameters `unstacked`.
    decoding: where the rows stand; used up.
    rule: how tokens are chosen.
    ends_E: tokens that end a row; -1 for none.
    limit: tokens to make, at most `size`, traced.
    size: columns of the result, static.

  Returns:
    The Decoding after them, and int32 tokens_BN, -1 where a row made none.
  """

  def step(carry):
    d, index, tokens_BN = carry
    segments_B1 = jnp.logical_not(d.done_B)[:, None].astype(jnp.int32)
    output = _next(model, params, d.token_B[:, None], segments_B1, d.state)
    key_B = jax.vmap(jax.random.fold_in, (0, None))(d.key_B, d.step)
    token_B = rule.choose(key_B, output.logits[:, 0])
    tokens_BN = tokens_BN.at[:, index].set(jnp.where(d.done_B, -1, token_B))
    done_B = d.done_B | (token_B[:, None] == ends_E[None]).any(1)
    return Decoding(output.state, token_B, done_B, d.key_B, d.step + 1), index + 1, tokens_BN

  def unfinished(carry):
    return (carry[1] < limit) & ~carry[0].done_B.all()

  tokens_BN = jnp.full((decoding.token_B.shape[0], size), -1, jnp.int32)
  decoding, _, tokens_BN = jax.lax.while_loop(unfinished, step, (decoding, 0, tokens_BN))
  return decoding, tokens_BN


def _next(model, params, token_B1, segments_B1, state):
  """The Output of one token a row."""
  variables = {"params": params}
  if model.spec.kind == "encoder_decoder":
    return model.apply(
      variables, token_B1, target_segments=segments_B1, state=state, method="decode"
    )
  return model.apply(variables, token_B1, segments=segments_B1, state=state)
