"""How tokens are drawn: what each cut keeps, and the distribution of the draws.

Legend: B batch, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from llm_jax.inference import sampling

LOGITS = np.array(
  [[0.5, -1.0, 2.0, 2.0, 0.0, -3.0], [3.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.0] * 6], np.float32
)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6, 9])
def test_top_k_keeps_what_fewer_than_k_tokens_beat(k):
  kept_BV = np.asarray(sampling.keep_top_k(LOGITS, k))
  for row, kept in zip(LOGITS, kept_BV, strict=True):
    expected = [x if sum(y > x for y in row) < k else -np.inf for x in row]
    np.testing.assert_array_equal(kept, np.float32(expected))


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.6, 0.9, 0.999, 1.0])
def test_top_p_keeps_what_is_not_beaten_by_p_already(p):
  kept_BV = np.asarray(sampling.keep_top_p(LOGITS, p))
  assert np.isfinite(kept_BV).any(1).all()
  for row, kept in zip(LOGITS, kept_BV, strict=True):
    probability = np.exp(row) / np.exp(row).sum()
    for x, got in zip(row, kept, strict=True):
      # Of equal tokens the first one counts: with it, all of them are kept.
      assert np.isfinite(got) == (probability[row > x].sum() < p)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_min_p_keeps_what_is_as_likely_as_a_share_of_the_likeliest(p):
  kept_BV = np.asarray(sampling.keep_min_p(LOGITS, p))
  for row, kept in zip(LOGITS, kept_BV, strict=True):
    np.testing.assert_array_equal(np.isfinite(kept), np.exp(row - row.max()) >= np.float32(p))


PROBABILITY = np.array([0.3, 0.25, 0.2, 0.15, 0.07, 0.03])


@pytest.mark.parametrize(
  ("options", "weights"),
  [
    ((1.0,), lambda p: p),
    ((0.5,), lambda p: p**2),
    ((1.0, 3), lambda p: p * [1, 1, 1, 0, 0, 0]),
    ((2.0, None, 0.6), lambda p: p**0.5 * [1, 1, 1, 0, 0, 0]),
    ((1.0, None, None, 0.6), lambda p: p * [1, 1, 1, 0, 0, 0]),
    # After the temperature: at 1 the fourth token would stay.
    ((0.5, None, None, 0.3), lambda p: p**2 * [1, 1, 1, 0, 0, 0]),
    # Each cut sees what the one before has left: of six tokens top_p would keep three.
    ((1.0, 4, 0.6), lambda p: p * [1, 1, 0, 0, 0, 0]),
  ],
)
def test_draws_follow_the_distribution(options, weights):
  count = 20_000
  logits_BV = jnp.broadcast_to(jnp.log(PROBABILITY), (count, 6))
  draw = sampling.Draw(*options)
  drawn_B = draw(jax.random.split(jax.random.key(3), count), logits_BV)
  counts = np.bincount(drawn_B, minlength=6)
  expected = weights(PROBABILITY) / weights(PROBABILITY).sum() * count
  kept = expected > 0
  assert (counts[~kept] == 0).all()
  assert stats.chisquare(counts[kept], expected[kept]).pvalue > 1e-3


def test_a_forbidden_token_is_never_drawn_and_the_coldest_draw_is_the_likeliest():
  logits_BV = jnp.broadcast_to(jnp.array([1.0, -jnp.inf, 0.99, 2.0, -jnp.inf]), (200, 5))
  keys = jax.random.split(jax.random.key(0), 200)
  assert set(sampling.Draw(9.0)(keys, logits_BV).tolist()) == {0, 2, 3}
  assert set(sampling.Draw(jnp.float32(2e-38))(keys, logits_BV).tolist()) == {3}
