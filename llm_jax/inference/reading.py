"""Prompts and sources read into a model's state, ahead of the first new token.

The last token of a prompt is the first input of the loop that makes tokens, so the parallel form
needs no logits and XLA drops the head from it. Lengths are rounded up to powers of two: prompts,
caches and numbers of new tokens of one bucket share their compiled programs.

Legend: B batch, T position, S source position, D model.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.inference.rules import History
from llm_jax.models.stack import unstack_blocks

_CHUNK = 512  # prompt tokens in one call: bounds the memory of long prompts
_SMALLEST_BUCKET = 16


def start(model, params, rows, new_tokens: int, copies: int, look_back: bool, prefix: bool = False):
  """Where a batch stands before its first new token.

  Args:
    model, params: of a decoder or an encoder-decoder.
    rows: ids of each prompt or source, none of them empty.
    new_tokens: how many may be made.
    copies: rows of each prompt, next to each other.
    look_back: whether a history is needed.
    prefix: whether a decoder reads all but the last token of each prompt both ways.

  Returns:
    The state after all but the last token of each prompt, or with the sources read; that last
    token, or the start token, as numpy (B,); and the History of what stands before the first new
    token, or None.
  """
  if model.spec.kind == "encoder_decoder":
    state = read_sources(model, params, *padded(rows), bucket(new_tokens))
    rows = [[model.spec.decoder_start_id]] * len(rows)
  else:
    state = initial_state(model, len(rows), bucket(max(map(len, rows)) + new_tokens))
    state = prefill(model, params, state, *padded([row[:-1] for row in rows]), prefix)
  if copies > 1:
    state = _repeated(state, copies)
    rows = [row for row in rows for _ in range(copies)]
  history = _history(rows, new_tokens) if look_back else None
  return state, np.array([row[-1] for row in rows], np.int32), history


@functools.partial(jax.jit, static_argnames="copies")
def _repeated(state, copies: int):
  return jax.tree.map(lambda a: jnp.repeat(a, copies, axis=0), state)


def _history(rows, new_tokens: int) -> History:
  tokens_BH = np.full((len(rows), bucket(max(map(len, rows)) + new_tokens)), -1, np.int32)
  for tokens_H, row in zip(tokens_BH, rows, strict=True):
    tokens_H[: len(row)] = row
  return History(jnp.asarray(tokens_BH), jnp.array([len(row) for row in rows], jnp.int32))


def bucket(length: int) -> int:
  """The power of two from `length` on."""
  return max(_SMALLEST_BUCKET, 1 << (length - 1).bit_length())


def padded(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
  """Prompts as (tokens_BT, segments_BT), padded at the right to no columns, a bucket, or whole
  chunks."""
  longest = max(map(len, rows))
  columns = -(-longest // _CHUNK) * _CHUNK if longest > _CHUNK else bucket(longest)
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


def prefill(model, params, state, tokens_BT, segments_BT, prefix: bool = False):
  """The state after these tokens, read by the parallel form in chunks; `state` is used up.

  A prefix is one chunk: its first tokens see its last.
  """
  columns = tokens_BT.shape[1]
  size = max(columns, 1) if prefix else _CHUNK
  for first in range(0, columns, size):
    chunk = np.s_[:, first : first + size]
    state = _read(model, params, state, tokens_BT[chunk], segments_BT[chunk], prefix)
  return state


@functools.partial(jax.jit, static_argnames=("model", "prefix"), donate_argnames="state")
def _read(model, params, state, tokens_BT, segments_BT, prefix):
  both_ways = {"prefix": segments_BT > 0} if prefix else {}
  return model.apply(
    {"params": params}, tokens_BT, segments=segments_BT, state=state, **both_ways
  ).state


@functools.partial(jax.jit, static_argnames="model")
def unstacked(model, params):
  """The parameters as one-token calls want them, cut into blocks once and not in each call."""
  return {**params, "stack": unstack_blocks(params["stack"], model.spec.decoder_stages)}


def read_one(model, params, token_B, real_B, state):
  """The logits after one more token of each row, (B, V), and the state; rows that are not real
  change nothing."""
  variables, token_B1 = {"params": params}, token_B[:, None]
  segments_B1 = real_B[:, None].astype(jnp.int32)
  if model.spec.kind == "encoder_decoder":
    output = model.apply(
      variables, token_B1, target_segments=segments_B1, state=state, method="decode"
    )
  else:
    output = model.apply(variables, token_B1, segments=segments_B1, state=state)
  return output.logits[:, 0], output.state
