"""The width that meets a number of parameters, against trying every width."""

import pytest

from llm_jax.analysis import counts, matching
from llm_jax.analysis.matching import match_width
from llm_jax.errors import UserError
from llm_jax.models.build import build
from llm_jax.models.spec import model_config

FAMILIES = {
  "rotary": {"layers": {"attention": {"num_heads": 6, "positions": "rope"}}},
  "fixed feed-forward": {"layers": {"attention": {"num_heads": 4}, "mlp": {"d_ff": 64}}},
  "recurrent": {"pattern": ("lstm",)},
  "rwkv4": {"pattern": ("rwkv4_time_mix", "rwkv4_channel_mix")},
}


def config_of(family, **options):
  return model_config(
    **{"vocab_size": 100, "d_model": 48, "repeats": 2} | FAMILIES[family] | options
  )


@pytest.mark.parametrize("family", FAMILIES)
def test_no_allowed_width_comes_nearer(family):
  config, real = config_of(family), {}
  for width in range(20, 100, 4):
    config.d_model = width
    try:
      build(config)
    except UserError:
      continue
    real[width] = counts.parameters(config)
  for target in (30_000, 61_234):
    nearest = min(real, key=lambda width: abs(real[width] - target))
    assert min(real) < nearest < max(real)
    matched = match_width(config, target, tolerance=0.2)
    assert matched.d_model == nearest
    assert config.d_model == 96  # what was given stays as it was
    matched.d_model = 96
    assert matched == config


def test_few_models_are_counted(monkeypatch):
  tried = []
  monkeypatch.setattr(matching, "parameters", lambda c: tried.append(c.d_model) or real(c))
  real = counts.parameters
  matched = match_width(config_of("recurrent", vocab_size=1000, d_model=128), 13_000_000)
  assert real(matched) == pytest.approx(13_000_000, rel=0.01)
  assert len(tried) <= 10 and len(set(tried)) == len(tried)


def test_a_target_out_of_reach_names_the_nearest_widths():
  config = config_of("rotary")
  below, above = (counts.parameters(config_of("rotary", d_model=width)) for width in (24, 36))
  with pytest.raises(UserError, match=rf"24 \({below:,} parameters\) and 36 \({above:,} param"):
    match_width(config, (below + above) // 2, tolerance=0.01)
  with pytest.raises(UserError, match=r"12 \("):
    match_width(config, 100)


def test_a_config_that_no_width_suits_is_refused():
  config = config_of("rotary")
  config.layers.attention.num_kv_heads = 4
  with pytest.raises(UserError, match="num_heads=6"):
    match_width(config, 100_000)
