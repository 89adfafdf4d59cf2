"""What is done to logits before a token is chosen: pure functions, in the order of transformers.

Legend: B row, V vocabulary, H column of the history, E end tokens, F forced tokens.
"""

import jax
import jax.numpy as jnp
from flax import struct

from llm_jax.inference.sampling import Draw, likeliest

NONE_ALLOWED = -2  # in place of a token where every one is forbidden


@struct.dataclass
class History:
  """The tokens that rules look back on: each row's prompt and what it has made, from the left.

  Attributes:
    tokens_BH: int32, -1 behind the row's last token.
    length_B: int32.
  """

  tokens_BH: jax.Array
  length_B: jax.Array

  def add(self, token_B) -> "History":
    rows_B = jnp.arange(len(token_B))
    tokens_BH = self.tokens_BH.at[rows_B, self.length_B].set(token_B, mode="drop")
    return History(tokens_BH, self.length_B + 1)


@struct.dataclass
class Rules:
  """How a token is chosen: numbers are traced, so that changing one compiles nothing; what is None
  is left out of the program. The fields are those of `Options`, as arrays.

  Attributes:
    ends_E: tokens that end a row.
    last_step: the number, from 0, of the last token there will be; of forced_last_F.
    draw: how to sample; None: the likeliest token.
  """

  ends_E: jax.Array | None = None
  bias_V: jax.Array | None = None
  repetition_penalty: jax.Array | None = None
  no_repeat_ngram_size: jax.Array | None = None
  min_new_tokens: jax.Array | None = None
  forced_first: jax.Array | None = None
  forced_last_F: jax.Array | None = None
  last_step: jax.Array | None = None
  suppressed_V: jax.Array | None = None
  draw: Draw | None = None

  @property
  def look_back(self) -> bool:
    """Whether they need a `History`."""
    return self.repetition_penalty is not None or self.no_repeat_ngram_size is not None

  def apply(self, logits_BV, history: History | None, step):
    """The logits, or log-probabilities, of token number `step` (from 0) with every rule applied;
    float32, -inf where a token is forbidden."""
    logits_BV = logits_BV.astype(jnp.float32)
    if self.bias_V is not None:
      logits_BV = logits_BV + self.bias_V[None]
    if self.repetition_penalty is not None:
      logits_BV = penalise_repetition(logits_BV, history, self.repetition_penalty)
    if self.no_repeat_ngram_size is not None:
      logits_BV = forbid_ngrams(logits_BV, history, self.no_repeat_ngram_size)
    if self.min_new_tokens is not None and self.ends_E is not None:
      early_BV = logits_BV.at[:, self.ends_E].set(-jnp.inf)
      logits_BV = jnp.where(step < self.min_new_tokens, early_BV, logits_BV)
    if self.forced_first is not None:
      logits_BV = jnp.where(step == 0, only(logits_BV, self.forced_first), logits_BV)
    if self.forced_last_F is not None:
      forced_BV = only(logits_BV, self.forced_last_F)
      logits_BV = jnp.where(step == self.last_step, forced_BV, logits_BV)
    if self.suppressed_V is not None:
      logits_BV = jnp.where(self.suppressed_V[None], -jnp.inf, logits_BV)
    return logits_BV

  def choose(self, key_B, logits_BV):
    """A token of each row, int32; NONE_ALLOWED where no logit is above -inf, or they are NaN."""
    token_B = likeliest(logits_BV) if self.draw is None else self.draw(key_B, logits_BV)
    return jnp.where(logits_BV.max(-1) > -jnp.inf, token_B, NONE_ALLOWED)

  def ends(self, tokens):
    """Which tokens, of any shape, end a row."""
    return jnp.zeros(tokens.shape, bool) if self.ends_E is None else jnp.isin(tokens, self.ends_E)


def only(logits_BV, ids):
  """0 at these tokens and -inf at all others."""
  return jnp.full_like(logits_BV, -jnp.inf).at[:, ids].set(0.0)


def penalise_repetition(logits_BV, history: History, penalty):
  """Logits of tokens in the history divided by the penalty, or multiplied if they are negative.

  Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1, with transformers' care for signs.
  """
  seen_BV = _marked(logits_BV, history.tokens_BH, history.tokens_BH >= 0)
  penalised_BV = jnp.where(logits_BV < 0, logits_BV * penalty, logits_BV / penalty)
  return jnp.where(seen_BV, penalised_BV, logits_BV)


def forbid_ngrams(logits_BV, history: History, size):
  """-inf at each token that would complete a sequence of `size` tokens that the history has.

  Args:
    logits_BV: float32.
    history: of the same rows.
    size: at least 1, possibly traced.

  Source: Paulus et al. 2017, arXiv:1705.04304, section 2.5.
  """
  tokens_BH, length_B = history.tokens_BH, history.length_B
  columns_H = jnp.arange(tokens_BH.shape[1])

  def compare(i, same_BH):
    """Whether token i of the sequence that starts at each column is that of the row's end."""
    own_B1 = jnp.take_along_axis(tokens_BH, (length_B - size + 1 + i)[:, None], 1, mode="clip")
    return same_BH & (jnp.roll(tokens_BH, -i, axis=1) == own_B1)

  whole_BH = columns_H[None] + size <= length_B[:, None]
  same_BH = jax.lax.fori_loop(0, size - 1, compare, whole_BH)
  next_BH = jnp.roll(tokens_BH, 1 - size, axis=1)
  return jnp.where(_marked(logits_BV, next_BH, same_BH), -jnp.inf, logits_BV)


def _marked(logits_BV, tokens_BH, which_BH):
  """bool (B, V): the tokens at the columns chosen."""
  rows_B1 = jnp.arange(len(tokens_BH))[:, None]
  column_BH = jnp.where(which_BH, tokens_BH, logits_BV.shape[1])
  return jnp.zeros(logits_BV.shape, bool).at[rows_B1, column_BH].set(True, mode="drop")
