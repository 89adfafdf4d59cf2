"""RWKV-4's weighted average of past values: a linear recurrence in numerator and denominator.

Legend: B batch, T position, D channel, N runs of tokens.
"""

import jax
import jax.numpy as jnp

from llm_jax.errors import unknown
from llm_jax.ops.forms import note

LOWEST = -1e38  # of p before any token: finite, so that no difference of two is NaN

State = tuple[jax.Array, jax.Array, jax.Array]


def initial_state(batch: int, channels: int) -> State:
  """(a, b, p) before the first token: nothing summed, at the lowest exponent."""
  zeros_BD = jnp.zeros((batch, channels), jnp.float32)
  return zeros_BD, zeros_BD, jnp.full((batch, channels), LOWEST, jnp.float32)


def _reset(state, start_B):
  a_BD, b_BD, p_BD = state
  start_B1 = start_B[:, None]
  return (
    jnp.where(start_B1, 0, a_BD),
    jnp.where(start_B1, 0, b_BD),
    jnp.where(start_B1, LOWEST, p_BD),
  )


def _weights(first, second):
  """e^first and e^second, both divided by the larger, and the exponent of that.

  The exponent only scales: what a state stands for, (a e^p, b e^p), and every output are the same
  whatever it is. So it carries no gradient, which saves those of the maxima.
  """
  p = jax.lax.stop_gradient(jnp.maximum(first, second))
  return jnp.exp(first - p), jnp.exp(second - p), p


def _output(bonus_D, k_BD, v_BD, state):
  """The average over the past and, with its bonus, the current token."""
  a_BD, b_BD, p_BD = state
  old_BD, new_BD, _ = _weights(p_BD, k_BD + bonus_D[None])
  return (old_BD * a_BD + new_BD * v_BD) / (old_BD * b_BD + new_BD)


def _absorb(log_decay_D, k_BD, v_BD, state, real_B):
  """The state after a token; padding decays nothing."""
  a_BD, b_BD, p_BD = state
  old_BD, new_BD, exponent_BD = _weights(p_BD + log_decay_D[None], k_BD)
  new = (old_BD * a_BD + new_BD * v_BD, old_BD * b_BD + new_BD, exponent_BD)
  return tuple(jnp.where(real_B[:, None], n, o) for n, o in zip(new, state, strict=True))


def _reference(log_decay_D, bonus_D, k_TBD, v_TBD, state, starts_TB, real_TB):
  """The definition: one token after another."""

  def step(state, at):
    k_BD, v_BD, start_B, real_B = at
    state = _reset(state, start_B)
    y_BD = _output(bonus_D, k_BD, v_BD, state)
    return _absorb(log_decay_D, k_BD, v_BD, state, real_B), y_BD

  state, y_TBD = jax.lax.scan(step, state, (k_TBD, v_TBD, starts_TB, real_TB))
  return y_TBD, state


# The same with a backward pass that keeps the state before each token and nothing else.
_own_gradient = jax.custom_vjp(_reference)


def _own_forward(log_decay_D, bonus_D, k_TBD, v_TBD, state, starts_TB, real_TB):
  def step(state, at):
    k_BD, v_BD, start_B, real_B = at
    before = _reset(state, start_B)
    y_BD = _output(bonus_D, k_BD, v_BD, before)
    return _absorb(log_decay_D, k_BD, v_BD, before, real_B), (y_BD, before)

  steps = (k_TBD, v_TBD, starts_TB, real_TB)
  last, (y_TBD, before) = jax.lax.scan(step, state, steps)
  return (y_TBD, last), (*steps, log_decay_D, bonus_D, before)


def _own_backward(residuals, gradients):
  k_TBD, v_TBD, starts_TB, real_TB, log_decay_D, bonus_D, before = residuals
  dy_TBD, (da_BD, db_BD, _) = gradients

  def step(carry, at):
    da_BD, db_BD, ddecay_BD, dbonus_BD = carry
    dy_BD, k_BD, v_BD, start_B, real_B, (a_BD, b_BD, p_BD) = at
    # The output: its two exponents have opposite gradients, since it is an average.
    old_BD, new_BD, _ = _weights(p_BD, k_BD + bonus_D[None])
    inverse_BD = 1 / (old_BD * b_BD + new_BD)
    y_BD = (old_BD * a_BD + new_BD * v_BD) * inverse_BD
    dsum_BD = dy_BD * inverse_BD
    doutput_k_BD = new_BD * (v_BD - y_BD) * dsum_BD
    # The state: padding passes it on.
    kept_BD, taken_BD, _ = _weights(p_BD + log_decay_D[None], k_BD)
    kept_BD = jnp.where(real_B[:, None], kept_BD, 1)
    taken_BD = jnp.where(real_B[:, None], taken_BD, 0)
    dv_BD = new_BD * dsum_BD + taken_BD * da_BD
    dk_BD = doutput_k_BD + taken_BD * (v_BD * da_BD + db_BD)
    da_BD, db_BD = kept_BD * da_BD, kept_BD * db_BD
    passed_BD = jnp.where(real_B[:, None], a_BD * da_BD + b_BD * db_BD, 0)
    da_BD, db_BD = da_BD + old_BD * dsum_BD, db_BD - old_BD * y_BD * dsum_BD
    keep_B1 = ~start_B[:, None]
    carry = (
      jnp.where(keep_B1, da_BD, 0),
      jnp.where(keep_B1, db_BD, 0),
      ddecay_BD + passed_BD,
      dbonus_BD + doutput_k_BD,
    )
    return carry, (dk_BD, dv_BD)

  zeros_BD = jnp.zeros_like(da_BD)
  (da_BD, db_BD, ddecay_BD, dbonus_BD), (dk_TBD, dv_TBD) = jax.lax.scan(
    step,
    (da_BD, db_BD, zeros_BD, zeros_BD),
    (dy_TBD, k_TBD, v_TBD, starts_TB, real_TB, before),
    reverse=True,
  )
  a_BD, b_BD, _ = (m[0] for m in before)
  dstate = da_BD, db_BD, a_BD * da_BD + b_BD * db_BD
  return ddecay_BD.sum(0), dbonus_BD.sum(0), dk_TBD, dv_TBD, dstate, None, None


_own_gradient.defvjp(_own_forward, _own_backward)


def _associative(log_decay_D, bonus_D, k_TBD, v_TBD, state, starts_TB, real_TB):
  """All prefixes at once, in log2(T) rounds.

  An element is a run of tokens: how many decay what came before it, whether it starts a document
  (then nothing came before it), and the state it leaves.
  """

  def join(left, right):
    steps_NB, begins_NB, *early = left
    more_NB, fresh_NB, *late = right
    decay_NBD = more_NB[..., None] * log_decay_D[None, None]
    old_NBD, new_NBD, p_NBD = _weights(early[2] + decay_NBD, late[2])
    fresh_NB1 = fresh_NB[..., None]
    old_NBD = jnp.where(fresh_NB1, 0, old_NBD)
    new_NBD = jnp.where(fresh_NB1, 1, new_NBD)
    p_NBD = jnp.where(fresh_NB1, late[2], p_NBD)
    a_NBD, b_NBD = (old_NBD * e + new_NBD * f for e, f in zip(early[:2], late[:2], strict=True))
    return steps_NB + more_NB, begins_NB | fresh_NB, a_NBD, b_NBD, p_NBD

  real_TB1 = real_TB[:, :, None]
  a_TBD = jnp.where(real_TB1, v_TBD, 0)
  b_TBD = jnp.where(real_TB1, jnp.ones_like(k_TBD), 0)
  p_TBD = jnp.where(real_TB1, k_TBD, LOWEST)
  tokens = (real_TB.astype(jnp.float32), starts_TB, a_TBD, b_TBD, p_TBD)
  first = (jnp.zeros_like(tokens[0][0]), jnp.zeros_like(starts_TB[0]), *state)
  elements = jax.tree.map(lambda f, t: jnp.concatenate([f[None], t]), first, tokens)
  states = jax.lax.associative_scan(join, elements)[2:]
  before = jax.vmap(_reset)(tuple(s[:-1] for s in states), starts_TB)
  y_TBD = jax.vmap(_output, (None, 0, 0, 0))(bonus_D, k_TBD, v_TBD, before)
  return y_TBD, tuple(s[-1] for s in states)


_FORMS = {"reference": _reference, "own_gradient": _own_gradient, "associative": _associative}


def wkv4(
  log_decay_D: jax.Array,
  bonus_D: jax.Array,
  k_BTD: jax.Array,
  v_BTD: jax.Array,
  state: State,
  starts_BT: jax.Array | None = None,
  real_BT: jax.Array | None = None,
  *,
  implementation: str = "auto",
) -> tuple[jax.Array, State]:
  """y_t = (e^{u + k_t} v_t + sum_{i<t} e^{(t-1-i) w + k_i} v_i) / (the same without v).

  Args:
    log_decay_D: w, at most 0: the log of what a step leaves of the past, -exp(time_decay).
    bonus_D: u, added to the current token's key in its own output.
    k_BTD, v_BTD: keys (logs of weights, any size) and values.
    state: (a, b, p) before the first token, each (B, D) float32: numerator a e^p and denominator
      b e^p of the past; `initial_state` if there is none.
    starts_BT: True where the past is forgotten before the token; None: nowhere.
    real_BT: False at padding, which changes no state and decays nothing; None: all real.
    implementation: "reference" (scan under autodiff), "own_gradient" (scan, written backward pass),
      "associative" (log depth) or "auto".

  Returns:
    y_BTD in v's dtype, and the state after the last token that is not padding.

  Source: Peng et al. 2023, arXiv:2305.13048, eq. 16-18, computed as in its appendix with the
  largest exponent taken out.
  """
  batch, length = k_BTD.shape[:2]
  starts_BT = jnp.zeros((batch, length), bool) if starts_BT is None else starts_BT
  real_BT = jnp.ones((batch, length), bool) if real_BT is None else real_BT
  # Value and gradient, B 8, T 256, D 256, two CPU cores: own_gradient 7 ms (15 MB), reference
  # 18 ms (28 MB), associative 63 ms (70 MB). On accelerators the log depth should win; unmeasured.
  if implementation == "auto":
    implementation = "own_gradient" if jax.default_backend() == "cpu" else "associative"
  if implementation not in _FORMS:
    raise unknown("implementation of wkv4", implementation, ("auto", *_FORMS))
  y_TBD, state = _FORMS[note("wkv4", implementation)](
    log_decay_D.astype(jnp.float32),
    bonus_D.astype(jnp.float32),
    jnp.moveaxis(k_BTD, 1, 0).astype(jnp.float32),
    jnp.moveaxis(v_BTD, 1, 0).astype(jnp.float32),
    state,
    starts_BT.T,
    real_BT.T,
  )
  return jnp.moveaxis(y_TBD, 0, 1).astype(v_BTD.dtype), state
