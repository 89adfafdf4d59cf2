"""Beam search: the likeliest sequences that a beam of hypotheses finds, all of it on the device.

A step of the beam reads one token of every open hypothesis, looks at all of their continuations at
once, and keeps the best. What has ended waits apart, as many as the beam is wide. A state is an
ordinary pytree, rows first, so hypotheses that change places take their states along by `jnp.take`.

Legend: B prompt, K beam, R row (all beams of all prompts), C candidate, N new token, V vocabulary.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from llm_jax.inference.reading import read_one
from llm_jax.inference.rules import History, Rules

_EMPTY = -jnp.inf  # the score of a place that holds no hypothesis


@struct.dataclass
class Ranking:
  """How ended hypotheses are ranked, and when a prompt is done; the numbers are traced.

  Attributes:
    length_penalty: a sum of log-probabilities is divided by the length to this power.
    first_come: whether a prompt is done as soon as its beam of ended hypotheses is full.
    horizon: the length at which an open hypothesis is judged; 0: the length it has.
  """

  length_penalty: jax.Array
  first_come: jax.Array
  horizon: jax.Array

  @classmethod
  def of(cls, length_penalty: float, early_stopping: bool | str, max_new_tokens: int) -> "Ranking":
    # Where length is no merit, a hypothesis is worth most now.
    far = early_stopping == "never" and length_penalty > 0
    return cls(
      jnp.float32(length_penalty),
      jnp.bool_(early_stopping != "never" and early_stopping),
      jnp.int32(max_new_tokens if far else 0),
    )

  def worth(self, score, length):
    return score / length.astype(jnp.float32) ** self.length_penalty

  def still_open(self, open_B, best_B, ended_BK, length):
    """Which prompts may still gain, by the score of their best open hypothesis."""
    full_B = (ended_BK > _EMPTY).all(1)
    judged = jnp.where(self.horizon > 0, self.horizon, length)
    better_B = self.worth(best_B, judged) > ended_BK.min(1)
    return open_B & (best_B > _EMPTY) & (~full_B | (better_B & ~self.first_come))


@struct.dataclass
class Hypotheses:
  """K sequences of each prompt, the best first.

  Attributes:
    score_BK: of open ones the sum of log-probabilities, of ended ones their worth.
    tokens_BKN: int32, -1 behind the last.
    log_probs_BKN: the model's own of each token, before any rule; None if nobody asks.
  """

  score_BK: jax.Array
  tokens_BKN: jax.Array
  log_probs_BKN: jax.Array | None

  def best(self, count: int, score=None) -> tuple["Hypotheses", jax.Array]:
    """The best by another score if it is given, and the places where they were."""
    score_BC = self.score_BK if score is None else score
    score_BK, places_BK = jax.lax.top_k(score_BC, count)
    return self.at(places_BK).replace(score_BK=score_BK), places_BK

  def at(self, places_BK) -> "Hypotheses":
    return jax.tree.map(lambda a: jax.vmap(lambda row, places: row[places])(a, places_BK), self)

  def beside(self, others: "Hypotheses") -> "Hypotheses":
    return jax.tree.map(lambda *pair: jnp.concatenate(pair, axis=1), self, others)


@struct.dataclass
class Search:
  """Where a search stands between two tokens.

  Attributes:
    state, history: of every row: beam k of prompt b is row b * K + k.
    token_R: the last token of each row, not yet read.
    running, ended: open hypotheses, and those that have ended.
    open_B: prompts that may still gain.
    step: tokens made so far.
  """

  state: struct.PyTreeNode
  history: History | None
  token_R: jax.Array
  running: Hypotheses
  ended: Hypotheses
  open_B: jax.Array
  step: jax.Array


def search_from(state, token_R, history, beams: int, size: int, log_probs: bool = False) -> Search:
  """Where a search starts.

  Args:
    state, history: of `beams` equal rows for each prompt.
    token_R: the token of each row that comes next.
    beams: hypotheses of each prompt.
    size: columns for new tokens.
    log_probs: whether log-probabilities are wanted.
  """
  shape = len(token_R) // beams, beams

  def hypotheses(first):
    score_BK = jnp.full(shape, _EMPTY).at[:, 0].set(first)
    log_probs_BKN = jnp.zeros((*shape, size)) if log_probs else None
    return Hypotheses(score_BK, jnp.full((*shape, size), -1, jnp.int32), log_probs_BKN)

  # One open hypothesis: equal ones would stay equal.
  running, ended = hypotheses(0.0), hypotheses(_EMPTY)
  open_B = jnp.ones(shape[:1], bool)
  return Search(state, history, jnp.asarray(token_R), running, ended, open_B, jnp.int32(0))


@functools.partial(jax.jit, static_argnames="model", donate_argnames="begin")
def search(model, params, begin: Search, rules: Rules, ranking: Ranking, limit) -> Search:
  """The search when every prompt is done; its `ended` are the best sequences found.

  A hypothesis ends with an end token, if it is then among the K best candidates of its prompt, or
  with token number `limit`.

  Args:
    model, params: the decoder, its parameters `unstacked`.
    begin: where it starts; used up.
    rules: what changes the log-probabilities; which tokens end a row.
    ranking: of what has ended.
    limit: tokens to make, at most as there are columns, traced.

  Source: Freitag & Al-Onaizan 2017, arXiv:1702.01806, section 2; length penalty and stopping as
  transformers has them (generation/utils.py, `_beam_search`).
  """
  step = functools.partial(_step, model, params, rules, ranking, limit)
  unfinished = lambda s: (s.step < limit) & s.open_B.any()
  return jax.lax.while_loop(unfinished, step, begin)


def search_watched(
  model,
  params,
  begin: Search,
  rules: Rules,
  ranking: Ranking,
  limit: int,
  stopped: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Search:
  """`search`, but that the host looks at each step's candidates: they end where it says so.

  Args:
    stopped: is given int32 tokens (B, C, n + 1) of candidates with n + 1 new tokens, and which of
      them are real, bool (B, C); tells which have ended, bool (B, C).
  """
  s = begin
  while s.step < limit and s.open_B.any():
    step = int(s.step)
    s, found = _look_once(model, params, rules, s)
    real_BC = np.isfinite(found.candidates.score_BK) & np.asarray(s.open_B)[:, None]
    tokens_BCN = np.asarray(found.candidates.tokens_BKN)[..., : step + 1]
    s = _keep_once(model, rules, ranking, limit, s, found, stopped(tokens_BCN, real_BC))
  return s


@struct.dataclass
class Found:
  """The best continuations of a step: themselves, the beam each comes from, its last token."""

  candidates: Hypotheses
  parent_BC: jax.Array
  token_BC: jax.Array


def _step(model, params, rules, ranking, limit, s: Search) -> Search:
  """One more token of every open prompt."""
  return _keep(model, rules, ranking, limit, *_look(model, params, rules, s))


def _look(model, params, rules, s: Search) -> tuple[Search, Found]:
  """The search with the last tokens read, and what may follow them."""
  real_R = jnp.repeat(s.open_B, s.running.score_BK.shape[1])
  logits_RV, state = read_one(model, params, s.token_R, real_R, s.state)
  return s.replace(state=state), _candidates(rules, s, logits_RV)


def _keep(model, rules, ranking, limit, s: Search, found: Found, stopped_BC=False) -> Search:
  """The search with the best of what was found."""
  (batch, beams), length = s.running.score_BK.shape, s.step + 1
  candidates, token_BC = found.candidates, found.token_BC
  ends_BC = rules.ends(token_BC) | (length == limit) | stopped_BC
  # Those behind the best `beams` are there for the next step only: they have yet to prove better.
  counts_BC = ends_BC & (jnp.arange(ends_BC.shape[1]) < beams)[None] & s.open_B[:, None]
  worth_BC = jnp.where(counts_BC, ranking.worth(candidates.score_BK, length), _EMPTY)
  ended, _ = s.ended.beside(candidates.replace(score_BK=worth_BC)).best(beams)

  running, places_BK = candidates.best(beams, jnp.where(ends_BC, _EMPTY, candidates.score_BK))
  take = lambda a_BC: jnp.take_along_axis(a_BC, places_BK, axis=1)
  rows_R = (jnp.arange(batch)[:, None] * beams + take(found.parent_BC)).reshape(-1)
  token_R = take(token_BC).reshape(-1)
  history = None if s.history is None else _moved(s.history, rows_R).add(token_R)
  open_B = ranking.still_open(s.open_B, running.score_BK[:, 0], ended.score_BK, length)
  state = _moved_state(model, s.state, rows_R)
  return Search(state, history, token_R, running, ended, open_B, length)


# Of a search that the host watches.
_look_once = jax.jit(_look, static_argnames="model", donate_argnames="s")
_keep_once = jax.jit(_keep, static_argnames="model", donate_argnames="s")


def _moved(tree, rows_R):
  return jax.tree.map(lambda a: jnp.take(a, rows_R, axis=0, mode="clip"), tree)


def _moved_state(model, state, rows_R):
  """The state with its rows in another order, among the beams of each prompt. What a layer keeps of
  a source is the same for all of them and need not move."""

  def block(states):
    name_of = lambda label: label.split("_", 1)[1]
    fixed = {k for k in states if getattr(model.spec.layer(name_of(k)), "keeps_memory", False)}
    return {k: s if k in fixed else _moved(s, rows_R) for k, s in states.items()}

  layers = tuple(tuple(map(block, stage)) for stage in state.layers)
  return state.replace(layers=layers, position_B=_moved(state.position_B, rows_R))


def _candidates(rules: Rules, s: Search, logits_RV) -> Found:
  """The best continuations of all beams together: so many that, whatever token ends them, there are
  enough to go on with."""
  (batch, beams), vocabulary = s.running.score_BK.shape, logits_RV.shape[-1]
  log_probs_RV = jax.nn.log_softmax(logits_RV.astype(jnp.float32))
  ruled_BKV = rules.apply(log_probs_RV, s.history, s.step).reshape(batch, beams, vocabulary)
  total_BKV = s.running.score_BK[..., None] + ruled_BKV
  ends = 1 if rules.ends_E is None else rules.ends_E.shape[0]
  count = min((1 + ends) * beams, beams * vocabulary)
  score_BC, flat_BC = jax.lax.top_k(total_BKV.reshape(batch, -1), count)
  parent_BC, token_BC = flat_BC // vocabulary, flat_BC % vocabulary
  before = s.running.at(parent_BC)
  tokens_BCN = before.tokens_BKN.at[..., s.step].set(token_BC)
  log_probs_BCN = before.log_probs_BKN
  if log_probs_BCN is not None:
    each_BC = jnp.take_along_axis(log_probs_RV.reshape(batch, -1), flat_BC, axis=1)
    log_probs_BCN = log_probs_BCN.at[..., s.step].set(each_BC)
  return Found(Hypotheses(score_BC, tokens_BCN, log_probs_BCN), parent_BC, token_BC)
