"""The options of decoding, and what is wrong with them told before anything runs.

Legend: V vocabulary, E end tokens, F forced tokens.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from llm_jax.errors import UserError, unknown
from llm_jax.inference.rules import Rules
from llm_jax.inference.sampling import Draw

_METHODS = ("greedy", "sample", "beam")
_DEFAULT_BEAMS = 4
_LEAST = {
  "max_new_tokens": 1,
  "min_new_tokens": 0,
  "top_k": 0,
  "no_repeat_ngram_size": 0,
  "num_return_sequences": 1,
}


@dataclasses.dataclass(frozen=True)
class Options:
  """What `generate` and `stream` share; the names are transformers', and so is their meaning.

  Attributes:
    max_new_tokens: tokens to make, the end token included.
    min_new_tokens: no end token before as many others.
    method: "greedy" (the likeliest token), "sample" or "beam".
    num_return_sequences: rows of a prompt, next to each other in the result: samples, or the best
      hypotheses of a beam, the best first.
    num_beams: of "beam": hypotheses kept of each prompt, 4 if None; at most as many as there are
      sequences, so 1 token of a vocabulary of V has at most V. While fewer exist the rest is empty.
    length_penalty: of "beam": a hypothesis of n new tokens is worth the sum of its
      log-probabilities divided by n to this power; above 0 favours long ones.
    early_stopping: of "beam", when a prompt is done: True, as soon as num_beams hypotheses have
      ended; False, when the best open one would be worth no more than the worst of them if it ended
      now; "never", when it could not be if it grew to max_new_tokens.
    temperature, top_k, top_p, min_p: of "sample", in this order; 0, 1 and 0 of the last three cut
      nothing.
    repetition_penalty: log-odds of tokens that stand in the prompt or have been made (of an
      encoder-decoder: the start token and the answer) are divided by it if positive, else
      multiplied; 1 is none.
    no_repeat_ngram_size: no sequence of as many tokens, of the same, occurs twice; 0 is no limit.
    logit_bias: {token: what is added to its logit}.
    suppress_tokens: tokens that are never made.
    forced_bos_token_id: the first token made.
    forced_eos_token_id: the token, or one of the tokens, at max_new_tokens.
    eos_token_id: the token, or tokens, that end a row; None: none does.
    stop_strings: texts that end a row, or a hypothesis of a beam; its text ends with the one it
      made.
    prefix: whether a decoder reads a prompt both ways, but for its last token, as one trained with
      an answer behind a prefix does.
    seed: of "sample". A row's draws depend on the seed and its own number only.
    return_log_probs: whether `Generated` comes back, with each token's log-probability.
  """

  max_new_tokens: int = 128
  min_new_tokens: int = 0
  method: str = "greedy"
  num_return_sequences: int = 1
  num_beams: int | None = None
  length_penalty: float = 1.0
  early_stopping: bool | str = False
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  repetition_penalty: float = 1.0
  no_repeat_ngram_size: int = 0
  logit_bias: Mapping[int, float] | None = None
  suppress_tokens: Sequence[int] | None = None
  forced_bos_token_id: int | None = None
  forced_eos_token_id: int | Sequence[int] | None = None
  eos_token_id: int | Sequence[int] | None = None
  stop_strings: str | Sequence[str] | None = None
  prefix: bool = False
  seed: int = 0
  return_log_probs: bool = False

  def __post_init__(self):
    if self.method not in _METHODS:
      raise unknown("method", self.method, _METHODS)
    for name, least in _LEAST.items():
      if getattr(self, name) < least:
        raise UserError(f"{name} must be at least {least}, found {getattr(self, name)}.")
    _check_numbers(self)
    _check_beam(self)
    if "" in self.stops:
      raise UserError("A stop string is empty, so every text would end with it. Leave it out.")

  @property
  def beams(self) -> int:
    """Hypotheses kept of each prompt; 1 without a beam."""
    return (self.num_beams or _DEFAULT_BEAMS) if self.method == "beam" else 1

  @property
  def stops(self) -> tuple[str, ...]:
    given = self.stop_strings
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)

  def check_vocabulary(self, size: int) -> None:
    """Refuses tokens outside of a vocabulary, and beams wider than there are sequences."""
    single = () if self.forced_bos_token_id is None else (self.forced_bos_token_id,)
    for name, ids in (
      ("logit_bias", self.logit_bias or ()),
      ("suppress_tokens", self.suppress_tokens or ()),
      ("forced_bos_token_id", single),
      ("forced_eos_token_id", token_ids(self.forced_eos_token_id)),
      ("eos_token_id", token_ids(self.eos_token_id)),
    ):
      for token in ids:
        if not 0 <= token < size:
          raise UserError(f"{name} has token {token}, outside the model's vocabulary of {size}.")
    if math.log(self.beams) > self.max_new_tokens * math.log(size) + 1e-9:
      raise UserError(
        f"num_beams is {self.beams}, wider than the {size**self.max_new_tokens} sequences that "
        f"max_new_tokens={self.max_new_tokens} has in a vocabulary of {size}. Make it smaller."
      )

  def rules(self, size: int) -> Rules:
    """How logits of a vocabulary of this size become a token."""
    forced_last = token_ids(self.forced_eos_token_id)
    return Rules(
      ends_E=_array(token_ids(self.eos_token_id)),
      bias_V=_dense(size, self.logit_bias) if self.logit_bias else None,
      repetition_penalty=_unless(1.0, self.repetition_penalty, jnp.float32),
      no_repeat_ngram_size=_unless(0, self.no_repeat_ngram_size, jnp.int32),
      min_new_tokens=_unless(0, self.min_new_tokens, jnp.int32),
      forced_first=_unless(None, self.forced_bos_token_id, jnp.int32),
      forced_last_F=_array(forced_last),
      last_step=jnp.int32(self.max_new_tokens - 1) if forced_last else None,
      suppressed_V=_dense(size, dict.fromkeys(self.suppress_tokens or (), True), bool),
      draw=self._draw,
    )

  @property
  def _draw(self) -> Draw | None:
    if self.method != "sample":
      return None
    return Draw(
      jnp.float32(self.temperature),
      _unless(0, self.top_k, jnp.int32),
      _unless(1.0, self.top_p, jnp.float32),
      _unless(0.0, self.min_p, jnp.float32),
    )


def _check_numbers(options: Options) -> None:
  least = np.finfo(np.float32).tiny  # below it the device has zero
  if options.method == "sample" and not least < options.temperature < math.inf:
    raise UserError(
      f"temperature must be above 0, found {options.temperature}. For the likeliest token every "
      "time use method='greedy'."
    )
  if not 0 < options.top_p <= 1:
    raise UserError(f"top_p must lie above 0 and not above 1, found {options.top_p}.")
  if not 0 <= options.min_p <= 1:
    raise UserError(f"min_p must lie between 0 and 1, found {options.min_p}.")
  if not 0 < options.repetition_penalty < math.inf:
    raise UserError(f"repetition_penalty must be above 0, found {options.repetition_penalty}.")
  if not math.isfinite(options.length_penalty):
    raise UserError(f"length_penalty must be a number, found {options.length_penalty}.")
  for token, bias in (options.logit_bias or {}).items():
    if not bias < math.inf:  # -inf suppresses
      raise UserError(f"logit_bias of token {token} must be a number, found {bias}.")


def _check_beam(options: Options) -> None:
  if options.early_stopping not in (True, False, "never"):
    raise UserError(
      f"early_stopping must be True, False or 'never', found {options.early_stopping!r}."
    )
  if options.method != "beam":
    if (options.num_beams or 1) > 1:
      raise UserError(
        f"num_beams={options.num_beams} needs method='beam', found {options.method!r}."
      )
    if options.method == "greedy" and options.num_return_sequences > 1:
      raise UserError(
        "method='greedy' makes one sequence, found num_return_sequences="
        f"{options.num_return_sequences}. Use method='sample' or method='beam'."
      )
    return
  if options.num_beams is not None and options.num_beams < 1:
    raise UserError(f"num_beams must be at least 1, found {options.num_beams}.")
  if options.num_return_sequences > options.beams:
    raise UserError(
      f"num_return_sequences is {options.num_return_sequences}, but a beam of num_beams="
      f"{options.beams} ends with as many. Widen the beam."
    )


def token_ids(given: int | Iterable[int] | None) -> tuple[int, ...]:
  """One token or several, or none, as a tuple."""
  if given is None:
    return ()
  return tuple(dict.fromkeys(int(token) for token in np.atleast_1d(np.asarray(given))))


def _unless(absent, value, kind):
  """A traced number, or None where it would change nothing."""
  return None if value == absent else kind(value)


def _array(ids: tuple[int, ...]):
  return jnp.asarray(ids, jnp.int32) if ids else None


def _dense(size: int, values: Mapping[int, float], dtype=np.float32):
  """A value of every token, 0 where none is given; None if none is given at all."""
  if not values:
    return None
  dense_V = np.zeros(size, dtype)
  dense_V[list(values)] = list(values.values())
  return jnp.asarray(dense_V)
