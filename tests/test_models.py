"""Decoder, encoder and encoder-decoder as wholes: options that must matter, forms that must agree.

Legend: B batch, T position, S source position.
"""

import dataclasses
import functools
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.contract import document_positions
from llm_jax.errors import UserError
from llm_jax.models import build, spec
from llm_jax.models.heads import VocabularyHead
from llm_jax.models.spec import model_config

B, T, V = 2, 12, 50
TOKENS = jax.random.randint(jax.random.key(0), (B, T), 0, V)


def made(**options):
  """A model of width 32, random parameters in which no branch is silent, and its jitted apply."""
  model = build.build(model_config(**{"vocab_size": V, "d_model": 32, "repeats": 2} | options))

  def draw(path, leaf):
    seed = sum(map(ord, jax.tree_util.keystr(path)))
    noise = np.random.default_rng(seed).normal(size=leaf.shape) * 0.2
    return jnp.asarray(noise + ("scale" in str(path[-1])), jnp.float32)

  params = jax.tree_util.tree_map_with_path(draw, build.abstract_params(model))
  return model, params, jax.jit(model.apply, static_argnames="train")


DEFAULT = dict(layers={"attention": {"positions": "rope"}})


@functools.cache
def default_logits():
  _, params, apply = made(**DEFAULT)
  return apply({"params": params}, TOKENS).logits


STATEFUL = [
  {"positions": "sinusoidal"},
  {"positions": "relative"},
  {"positions": "relative", "position_buckets": 4, "position_max_distance": 6},
  {"positions": "learned", "max_length": 16},
  {"positions": "learned", "max_length": 16, "position_offset": 2},
  {"norm_placement": "sandwich"},
  {"pattern": (("attention", "mlp"),)},
  {"stages": ((("attention",), 1), (("mlp", "attention"), 2))},
  {"layers": {"attention": {"positions": "alibi"}}},
  {"layers": {"attention": {"positions": "rope", "window": 4}}},
]


@pytest.mark.parametrize(
  "options",
  [
    *STATEFUL,
    {"norm": "rmsnorm"},
    {"norm": "rmsnorm_plus_one"},
    {"positions": "sinusoidal_halves"},
    {"token_types": 2},
    {"head_bias": True},
    {"logit_scale": 0.5},
    {"heads": ("masked_lm",)},
    {"layers": {"attention": {"positions": "rope", "rope_fraction": 0.5}}},
    {"layers": {"attention": {"positions": "rope", "rope_scaling": ("linear", 4.0)}}},
    {"layers": {"attention": {"positions": "rope", "rope_scaling": ("llama3", 8.0, 1.0, 4.0, 8)}}},
    {"layers": {"attention": {"positions": "rope", "out_bias": False}}},
    {"layers": {"attention": {"positions": "rope", "query_scale": 1.0}}},
    {"norm_placement": "post"},
    {"final_norm": False},
    {"embedding_norm": True},
    {"embedding_scale": True},
    {"embedding_scale": True, "embedding_scale_dtype": "bfloat16"},
    {"tie_embeddings": False},
    {"logit_soft_cap": 2.0},
    {"norm_epsilon": 1.0},
    {"pattern": (("attention", "mlp"),), "group_norm": False},
    {"layers": {"attention": {"positions": "rope", "rope_base": 100.0}}},
    {"layers": {"attention": {"positions": "rope", "qk_norm": True}}},
    {"layers": {"attention": {"positions": "rope", "soft_cap": 1.0}}},
    {"layers": {"attention": {"positions": "rope", "num_kv_heads": 1}}},
    {"layers": {"attention": {"positions": "rope", "head_dim": 16}}},
    {"layers": {"attention": {"positions": "rope"}, "mlp": {"activation": "relu2"}}},
    {"layers": {"attention": {"positions": "rope"}, "mlp": {"activation": "geglu"}}},
    {"layers": {"attention": {"positions": "rope"}, "mlp": {"d_ff": 40, "use_bias": False}}},
  ],
  ids=str,
)
def test_every_option_matters(options):
  _, params, apply = made(**DEFAULT | options)
  logits = apply({"params": params}, TOKENS).logits
  assert logits.dtype == jnp.float32
  assert float(jnp.abs(logits - default_logits()).max()) > 1e-3


@pytest.mark.parametrize("options", STATEFUL, ids=str)
def test_prefill_and_decoding_equal_the_whole_pass(options):
  model, params, apply = made(**DEFAULT | options)
  whole = apply({"params": params}, TOKENS)
  prefill = apply({"params": params}, TOKENS[:, :9], state=model.initial_state(B, 16))
  state, parts = prefill.state, [prefill.logits]
  for t in range(9, T):
    output = apply({"params": params}, TOKENS[:, t : t + 1], state=state)
    state, parts = output.state, [*parts, output.logits]
  np.testing.assert_allclose(jnp.concatenate(parts, 1), whole.logits, atol=5e-5)
  np.testing.assert_array_equal(state.position_B, [T, T])


def test_a_grouped_pattern_has_one_norm_or_one_a_branch():
  pattern = (("attention", "mlp"),)
  names = lambda **options: set(made(pattern=pattern, **options)[1]["stack"]["0"])
  assert names() == {"0_norm", "0_attention", "1_mlp"}
  assert names(group_norm=False) == {"0_norm", "1_norm", "0_attention", "1_mlp"}


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_no_gradient(remat):
  def gradient(remat):
    _, params, apply = made(remat=remat, **DEFAULT)
    return jax.grad(lambda p: jnp.square(apply({"params": p}, TOKENS).logits).mean())(params)

  same = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4)
  jax.tree.map(same, gradient(remat), gradient("none"))


def test_dropout_needs_train_and_a_key():
  _, params, apply = made(dropout_rate=0.5, **DEFAULT)
  plain = apply({"params": params}, TOKENS).logits
  draw = lambda seed: (
    apply({"params": params}, TOKENS, train=True, rngs={"dropout": jax.random.key(seed)}).logits
  )
  assert not np.allclose(plain, draw(0))
  assert not np.allclose(draw(0), draw(1))
  np.testing.assert_array_equal(draw(1), draw(1))
  np.testing.assert_array_equal(plain, default_logits())


def test_an_encoder_sees_both_ways_and_no_padding():
  _, params, apply = made(kind="encoder", **DEFAULT)
  run = lambda tokens, **k: apply({"params": params}, tokens, **k).logits
  changed = TOKENS.at[:, -1].add(1)
  assert float(jnp.abs(run(TOKENS)[:, 0] - run(changed)[:, 0]).max()) > 1e-4
  segments = jnp.ones((B, T), jnp.int32).at[:, -1].set(0)
  short = run(TOKENS[:, :-1])
  np.testing.assert_allclose(run(TOKENS, segments=segments)[:, :-1], short, atol=1e-5)


ENCODER_DECODER = dict(
  kind="encoder_decoder",
  pattern=("attention", "cross_attention", "mlp"),
  positions="relative",
  layers={"cross_attention": {"num_kv_heads": 2}},
)


def test_an_encoder_decoder_decodes_as_it_trains():
  model, params, apply = made(**ENCODER_DECODER)
  source = TOKENS[:, :7]
  source_segments = jnp.ones((B, 7), jnp.int32).at[0, 5:].set(0)
  whole = apply({"params": params}, source, TOKENS, source_segments=source_segments)
  encode = jax.jit(lambda *a: model.apply({"params": params}, *a, method="encode"))
  decode = jax.jit(lambda *a, **k: model.apply({"params": params}, *a, **k, method="decode"))
  memory = encode(source, source_segments)
  state = model.initial_state(B, T, memory_length=7)
  first = decode(TOKENS[:, :4], memory, source_segments, state=state)
  parts, state = [first.logits], first.state
  for t in range(4, T):
    output = decode(TOKENS[:, t : t + 1], state=state)
    parts, state = [*parts, output.logits], output.state
  np.testing.assert_allclose(jnp.concatenate(parts, 1), whole.logits, atol=5e-5)


def test_an_encoder_decoder_reads_its_source_but_not_its_padding():
  _, params, apply = made(**ENCODER_DECODER)
  run = lambda source, segments: (
    apply({"params": params}, source, TOKENS, source_segments=segments).logits
  )
  source, segments = TOKENS[:, :7], jnp.ones((B, 7), jnp.int32).at[:, 5:].set(0)
  other_padding = run(source.at[:, 5:].add(1), segments)
  np.testing.assert_array_equal(run(source, segments), other_padding)
  assert float(jnp.abs(run(source.at[:, 0].add(1), segments) - other_padding).max()) > 1e-4


def test_positions_count_real_tokens_of_each_document():
  segments = jnp.array([[0, 1, 1, 0, 1, 2, 2, 3, 0], [4, 4, 1, 1, 1, 0, 0, 0, 0]])
  expected = [[-1, 0, 1, -1, 2, 0, 1, 0, -1], [0, 1, 0, 1, 2, -1, -1, -1, -1]]
  np.testing.assert_array_equal(document_positions(segments), expected)


def test_parameters_are_plain_arrays_stacked_over_repeats_with_axes_beside():
  model, params, _ = made(**DEFAULT)
  assert params["stack"]["0"]["0_attention"]["q"]["kernel"].shape == (2, 32, 4, 8)
  axes = build.param_axes(model)
  assert axes["stack"]["0"]["1_mlp"]["in"]["kernel"] == ("layers", "embed", "mlp")
  for leaf, names in zip(
    jax.tree.leaves(params), jax.tree.structure(params).flatten_up_to(axes), strict=True
  ):
    assert len(names) == leaf.ndim
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, build.abstract_params(model))


class Maker(nn.Module):
  """Makes a value in the first block that every later block adds."""

  def __call__(self, x_BTD, context, state=None):
    made = jnp.where(context.depth == 0, x_BTD * 2.0, context.shared["first"])
    return made, state, {"first": made}

  def initial_state(self, batch, max_length, memory_length, d_model, dtype):
    return {}

  def initial_shared(self, x_BTD):
    return {"first": jnp.zeros_like(x_BTD)}


def test_shared_values_travel_through_the_scan(monkeypatch):
  monkeypatch.setattr(spec, "layer_names", lambda: ["maker"])
  module = type("module", (), {"Maker": Maker})
  monkeypatch.setattr(importlib, "import_module", lambda name: module)
  _, params, apply = made(pattern=("maker",), repeats=3, norm_placement="post", final_norm=False)
  output = apply({"params": params}, TOKENS)
  x = params["embed"]["tokens"][TOKENS]
  first = 2.0 * x
  for block in range(3):
    scale, bias = (params["stack"]["0"]["0_norm"][k][block] for k in ("scale", "bias"))
    x = x + first
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * scale[None, None] + bias[None, None]
  np.testing.assert_allclose(output.hidden, x, atol=1e-5)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"pattern": ("atention",)}, "Did you mean 'attention'"),
    ({"layers": {"attention": {"heads": 4}}}, "Did you mean 'num_heads'"),
    ({"patern": ()}, "Did you mean 'pattern'"),
    ({"norm": "layer_norm"}, "Did you mean 'layernorm'"),
    ({"layers": {"attention": {"num_heads": 5}}}, "nearest number of heads that divides it is 4"),
    ({"layers": {"attention": {"num_kv_heads": 3}}}, "not divisible by its num_kv_heads=3"),
    ({"layers": {"attention": {"positions": "rope", "head_dim": 7}}}, "even head size"),
    ({"layers": {"attention": {"positions": "rope", "rope_fraction": 0.4}}}, "turn 3 of 8"),
    ({"positions": "learned"}, "model.max_length"),
    ({"vocab_size": 0}, "model.vocab_size must be at least 1"),
    ({"layers": {"atention": {"num_heads": 8}}}, "Did you mean 'attention'"),
    ({"layers": {"attention": {"window": -5}}}, "window must be 0"),
    ({"layers": {"attention": {"num_heads": 0}}}, "num_heads of at least 1"),
    ({"positions": "relative", "pattern": ("mlp",)}, "no layer with heads"),
    ({"repeats": 0}, "one layer and one repeat"),
    ({"heads": ("language_modl",)}, "Did you mean 'language_model'"),
    ({"heads": ("language_model", "masked_lm")}, "one of them"),
  ],
  ids=str,
)
def test_a_wrong_model_is_refused_by_name(options, message):
  with pytest.raises(UserError, match=message):
    build.build(model_config(**{"vocab_size": V, "d_model": 32} | options))


def test_logits_are_float32_whatever_the_compute_type_and_the_head():
  x_BTD = jax.random.normal(jax.random.key(0), (B, T, 32)).astype(jnp.bfloat16)
  table_VD = jax.random.normal(jax.random.key(1), (V, 32))
  tied = VocabularyHead(spec.Spec(d_model=32, vocab_size=V))
  untied = VocabularyHead(spec.Spec(d_model=32, vocab_size=V, tie_embeddings=False))
  of_tied = tied.apply({}, x_BTD, table_VD)
  of_untied = untied.apply({"params": {"out": {"kernel": table_VD.T}}}, x_BTD, table_VD)
  assert of_tied.dtype == jnp.float32
  np.testing.assert_array_equal(of_tied, of_untied)
  assert bool((of_tied != of_tied.astype(jnp.bfloat16)).any())


def test_a_causal_layer_refuses_an_encoder():
  with pytest.raises(ValueError, match="'lstm' is causal"):
    made(kind="encoder", pattern=("lstm",))


def test_what_lies_outside_of_a_table_shows():
  _, params, apply = made(positions="learned", max_length=T, token_types=2)

  def rows(tokens, **more):
    return np.isnan(apply({"params": params}, tokens, **more).logits).any((1, 2)).tolist()

  assert rows(TOKENS.at[0, -1].set(V)) == [True, False]
  assert rows(TOKENS.at[0, -1].set(-1)) == [True, False]
  assert rows(TOKENS, token_types=jnp.zeros_like(TOKENS).at[0, -1].set(2)) == [True, False]
  padding = jnp.ones_like(TOKENS).at[0, -1].set(0)
  assert rows(TOKENS.at[0, -1].set(-100), segments=padding) == [False, False]

  longer = jnp.concatenate([TOKENS, TOKENS[:, :1]], axis=1)
  with pytest.raises(UserError, match=f"{T + 1} tokens.*learned positions for {T}"):
    rows(longer)
  assert rows(longer, segments=jnp.ones_like(longer).at[0, 5:].set(2)) == [False, True]


def test_a_variant_starts_from_its_types_entry():
  config = model_config(
    pattern=("attention", "local"),
    layers={"attention": {"num_heads": 2}, "local": {"type": "attention", "window": 7}},
  )
  assert (config.layers.local.num_heads, config.layers.local.window) == (2, 7)
  assert config.layers.attention.window == 0


def test_model_config_fills_in_every_field_for_the_command_line():
  config = model_config(pattern=("mlp",))
  assert set(config) == {field.name for field in dataclasses.fields(spec.Spec)} | {"embedding"}
  assert set(config.layers.mlp) == set(spec.layer_fields("mlp"))


def test_every_head_is_in_the_output_and_the_pooler_reads_the_first_real_token():
  options = {"kind": "encoder", "heads": ("masked_lm", "next_sentence", "pooler")}
  _, params, apply = made(**DEFAULT | options)
  output = apply({"params": params}, TOKENS)
  np.testing.assert_array_equal(output.logits, output.heads["masked_lm"])
  assert output.heads["next_sentence"].shape == (B, 2)
  left = ((0, 0), (3, 0))
  padded, segments = np.pad(TOKENS, left), np.pad(np.ones_like(TOKENS), left)
  after = apply({"params": params}, padded, segments=segments)
  np.testing.assert_allclose(after.heads["pooler"], output.heads["pooler"], atol=1e-5)


def test_token_types_are_added_and_refused_where_there_is_no_table():
  _, params, apply = made(token_types=2, **DEFAULT)
  given = apply({"params": params}, TOKENS, token_types=jnp.ones_like(TOKENS)).logits
  assert float(jnp.abs(given - apply({"params": params}, TOKENS).logits).max()) > 1e-3
  _, params, apply = made(**DEFAULT)
  with pytest.raises(UserError, match="token_types"):
    apply({"params": params}, TOKENS, token_types=jnp.zeros_like(TOKENS))


def test_a_row_is_reconstructed_from_its_last_token_and_the_places_alone():
  _, params, apply = made(heads=("reconstruction",), pattern=("mlp",))  # tokens do not mix
  run = lambda tokens, **k: apply({"params": params}, tokens, **k).logits
  logits = run(TOKENS)
  assert logits.shape == (B, T, V) and logits.dtype == jnp.float32
  np.testing.assert_array_equal(run(TOKENS.at[:, :-1].add(1)), logits)
  for other in (run(TOKENS.at[:, -1].add(1)), logits[:, ::-1]):
    assert float(jnp.abs(other - logits).max(axis=(0, 2)).min()) > 1e-3
  ends = ((0, 0), (3, 2))
  padded, segments = np.pad(TOKENS, ends), np.pad(np.ones_like(TOKENS), ends)
  np.testing.assert_allclose(run(padded, segments=segments)[:, 3:-2], logits, atol=1e-5)
