"""The loop that makes tokens one by one, greedily or by sampling, all of it on the device.

Legend: B batch, N new token, V vocabulary.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct

from llm_jax.inference.reading import read_one
from llm_jax.inference.rules import NONE_ALLOWED, History, Rules


@struct.dataclass
class Decoding:
  """Where a batch stands between two tokens.

  Attributes:
    state: the model's, after every token before `token_B`.
    token_B: the last token of each row, not yet read.
    done_B: rows that make no more tokens.
    key_B: random key of each row.
    step: tokens made so far.
    history: of rules that look back, else None.
  """

  state: struct.PyTreeNode
  token_B: jax.Array
  done_B: jax.Array
  key_B: jax.Array
  step: jax.Array
  history: History | None = None


def decoding_from(state, token_B, seed: int = 0, history: History | None = None) -> Decoding:
  """Where decoding starts: a state, and the token of each row that comes next."""
  token_B = jnp.asarray(token_B, jnp.int32)
  done_B = jnp.zeros(token_B.shape, bool)
  return Decoding(state, token_B, done_B, _keys(seed, len(token_B)), jnp.int32(0), history)


@functools.partial(jax.jit, static_argnames="batch")
def _keys(seed, batch: int):
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(batch))


@functools.partial(
  jax.jit, static_argnames=("model", "size", "log_probs"), donate_argnames="decoding"
)
def decode(
  model, params, decoding: Decoding, rules: Rules, limit, size: int, log_probs: bool = False
):
  """Makes up to `limit` tokens a row in one loop over the state.

  Args:
    model, params: the decoder, its parameters `unstacked`.
    decoding: where the rows stand; used up.
    rules: how tokens are chosen, and which of them end a row.
    limit: tokens to make, at most `size`, traced.
    size: columns of the result, static.
    log_probs: whether log-probabilities are wanted.

  Returns:
    The Decoding after them; int32 tokens_BN, -1 where a row made none and NONE_ALLOWED where it
    could make none; and float32 (B, N), the model's log-probability of each token before any rule
    applies, or None.
  """
  shape = decoding.token_B.shape[0], size
  made = (jnp.full(shape, -1, jnp.int32), jnp.zeros(shape) if log_probs else None)

  def step(carry):
    d, index, (tokens_BN, log_probs_BN) = carry
    logits_BV, state = read_one(model, params, d.token_B, ~d.done_B, d.state)
    key_B = jax.vmap(jax.random.fold_in, (0, None))(d.key_B, d.step)
    chosen_B = rules.choose(key_B, rules.apply(logits_BV, d.history, d.step))
    stuck_B = chosen_B == NONE_ALLOWED
    token_B = jnp.where(stuck_B, 0, chosen_B)
    if log_probs:
      log_probs_BN = log_probs_BN.at[:, index].set(log_probability(logits_BV, token_B))
    tokens_BN = tokens_BN.at[:, index].set(jnp.where(d.done_B, -1, chosen_B))
    done_B = d.done_B | stuck_B | rules.ends(token_B)
    history = None if d.history is None else d.history.add(token_B)
    after = Decoding(state, token_B, done_B, d.key_B, d.step + 1, history)
    return after, index + 1, (tokens_BN, log_probs_BN)

  def unfinished(carry):
    return (carry[1] < limit) & ~carry[0].done_B.all()

  decoding, _, made = jax.lax.while_loop(unfinished, step, (decoding, 0, made))
  return decoding, *made


def log_probability(logits_BV, token_B):
  """Of one token a row under a model's logits, float32 (B,)."""
  log_probs_BV = jax.nn.log_softmax(logits_BV.astype(jnp.float32))
  return jnp.take_along_axis(log_probs_BV, token_B[:, None], axis=1)[:, 0]
