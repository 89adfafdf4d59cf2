"""The measurement of prefill and decoding: what it reports, not how fast this machine is."""

import pytest

from llm_jax.analysis import counts, speed
from llm_jax.models.spec import model_config


@pytest.mark.parametrize("positions", ["none", "learned"])
def test_every_context_is_measured_beside_its_analytic_bytes(positions):
  config = model_config(
    vocab_size=50, d_model=32, repeats=1, positions=positions, max_length=10, pattern=("attention",)
  )
  result = speed.measure(config, contexts=(8, 24), tokens=4)
  assert config.max_length == 10  # raised in a copy
  for row, context in zip(result["contexts"], (8, 24), strict=True):
    assert row["context"] == context
    assert row["prefill_tokens_per_second"] > 0 and row["decode_tokens_per_second"] > 0
    assert row["state_bytes"] == row["state_bytes_analytic"] == counts.state_bytes(config, context)
  short, long = (row["state_bytes"] for row in result["contexts"])
  assert long - short == 16 * (2 * 32 * 4 + 4)
