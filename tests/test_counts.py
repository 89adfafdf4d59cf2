"""Counts of parameters, FLOPs and state bytes, against hand counts, XLA's own and real arrays.

Legend: M, K, N sides of matrix products; T position.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.analysis import counts
from llm_jax.analysis.flops import flops
from llm_jax.models.build import build, init_params
from llm_jax.models.spec import model_config

M, K, N = 3, 5, 7
X, W = jnp.ones((M, K)), jnp.ones((K, N))
SQUARE = jnp.ones((K, K))
PRODUCT = 2 * M * K * N


def scanned(x_MK):
  body = lambda x_MK, _: (x_MK @ SQUARE, None)
  return jax.lax.scan(body, x_MK, length=11)[0]


def branched(x_MK):
  return jax.lax.cond(x_MK[0, 0] > 0, lambda x: x @ W, lambda x: x[:, :1] * W[:1], x_MK)


def looped(x_MK):
  return jax.lax.while_loop(lambda x: x[0, 0] < 9.0, lambda x: x @ SQUARE, x_MK)


def with_unread_product(x_MK):
  return jnp.sum(x_MK), (x_MK @ W, jnp.sin(x_MK))[1]


@jax.custom_vjp
def doubled(x):
  return 2.0 * x


doubled.defvjp(lambda x: (2.0 * x, None), lambda _, dy: (dy @ jnp.ones((dy.shape[-1],) * 2),))

GROUPS = jnp.array([1, 2])
RAGGED = jnp.ones((2, K, N))


@pytest.mark.parametrize(
  ("function", "argument", "expected"),
  [
    (lambda x: x @ W, X, PRODUCT),
    (lambda x: jax.lax.dot_general(x, W, (((1,), (0,)), ((), ()))) + 1.0, X, PRODUCT + M * N),
    (lambda x: jnp.einsum("mk,mk->m", x, x), X, 2 * M * K),
    (lambda x: (x + 1j) @ W.astype(complex), X, 4 * PRODUCT + 2 * M * K),
    (jnp.exp, X, M * K),
    (lambda x: x.T.reshape(-1)[::2], X, 0),
    (lambda x: x.sum(0), X, M * K),
    (lambda x: jax.jit(jax.jit(lambda y: y @ W))(x), X, PRODUCT),
    (scanned, X, 11 * 2 * M * K * K),
    (branched, X, PRODUCT + 1),
    (looped, X, 2 * M * K * K + 1),
    (with_unread_product, X, 2 * M * K),
    (jax.grad(lambda x: (x @ W).sum()), X, PRODUCT),
    (jax.grad(lambda x: doubled(x).sum()), X, 2 * M * K * K),
    (lambda x: jax.lax.ragged_dot(x, RAGGED, GROUPS), X, PRODUCT),
    (jax.grad(lambda w: jax.lax.ragged_dot(X, w, GROUPS).sum()), RAGGED, PRODUCT),
  ],
)
def test_flops_of_small_functions_are_those_counted_by_hand(function, argument, expected):
  assert flops(function, argument) == expected


def test_recomputation_is_counted_again():
  def loss(x_MK, remat):
    wave = lambda x_MK: jnp.sin(jnp.sin(x_MK @ SQUARE))
    return (jax.checkpoint(wave) if remat else wave)(x_MK).sum()

  plain = flops(jax.value_and_grad(lambda x: loss(x, remat=False)), X)
  again = flops(jax.value_and_grad(lambda x: loss(x, remat=True)), X)
  assert again - plain == 2 * M * K * K + M * K  # the product, and the sine that is differentiated


def test_a_sharded_function_counts_every_device():
  mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  spec = jax.sharding.PartitionSpec("data")
  x = jnp.ones((8, K))
  sharded = jax.shard_map(lambda x: x @ W, mesh=mesh, in_specs=spec, out_specs=spec)
  assert flops(sharded, x) == flops(lambda x: x @ W, x)


def test_an_unknown_primitive_is_no_silent_zero(caplog):
  assert flops(jnp.linalg.cholesky, SQUARE) >= SQUARE.size
  assert "cholesky" in caplog.text


GPT2 = {
  "positions": "learned",
  "layers": {"attention": {"num_heads": 4}, "mlp": {"activation": "gelu_tanh"}},
}
LLAMA = {
  "norm": "rmsnorm",
  "layers": {
    "attention": {"num_heads": 4, "positions": "rope", "use_bias": False, "out_bias": False},
    "mlp": {"activation": "swiglu", "use_bias": False},
  },
}


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("family", [GPT2 | {"max_length": 128}, LLAMA], ids=["gpt2", "llama"])
def test_flops_of_matmul_dominated_models_are_within_five_percent_of_xla(family, remat):
  # One repeat: XLA takes the body of the scan over the repeats once.
  t, config = 128, model_config(vocab_size=512, d_model=128, repeats=1, remat=remat, **family)
  model = build(config)

  def loss(params, tokens_BT):
    log_probs_BTV = jax.nn.log_softmax(model.apply({"params": params}, tokens_BT).logits)
    return -jnp.mean(jnp.take_along_axis(log_probs_BTV, tokens_BT[..., None], axis=-1))

  params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
  tokens_BT = jax.ShapeDtypeStruct((1, t), jnp.int32)
  xla = jax.jit(jax.value_and_grad(loss)).lower(params, tokens_BT).compile().cost_analysis()
  assert counts.training_flops_per_token(config, t) * t == pytest.approx(xla["flops"], rel=0.05)
  if remat == "none":
    logits = lambda params, tokens_BT: model.apply({"params": params}, tokens_BT).logits
    xla = jax.jit(logits).lower(params, tokens_BT).compile().cost_analysis()
    assert flops(logits, params, tokens_BT) == pytest.approx(xla["flops"], rel=0.05)


def test_flops_grow_with_every_repeat_of_the_scan():
  config = lambda repeats: model_config(vocab_size=64, d_model=32, repeats=repeats, **LLAMA)
  one, two, nine = (counts.training_flops_per_token(config(r), 16) for r in (1, 2, 9))
  assert nine - one == pytest.approx(8 * (two - one), rel=1e-3)


def test_published_sizes_are_met_to_the_last_parameter():
  gpt2 = model_config(vocab_size=50257, d_model=768, repeats=12, max_length=1024, **GPT2)
  llama = model_config(vocab_size=32000, d_model=4096, repeats=32, tie_embeddings=False, **LLAMA)
  llama.layers.mlp.d_ff = 11008
  assert counts.parameters(gpt2) == 124_439_808
  assert counts.parameters(llama) == 6_738_415_616


MODELS = {
  "attention": {"pattern": ("attention", "mlp")},
  "window": {"pattern": ("attention",), "layers": {"attention": {"window": 24}}},
  "lstm": {"pattern": ("lstm",)},
  "s5": {"pattern": ("s5",)},
  "mamba": {"pattern": ("mamba",)},
  "rwkv4": {"pattern": ("rwkv4_time_mix", "rwkv4_channel_mix")},
  "hybrid": {"pattern": ("mamba", "attention")},
  "translation": {"kind": "encoder_decoder", "pattern": ("attention", "cross_attention")},
}


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_state_bytes_are_those_of_real_arrays(name):
  config = model_config(vocab_size=64, d_model=32, repeats=2, **MODELS[name])
  model = build(config)
  params = init_params(model, jax.random.key(0))
  assert counts.parameters(config) == sum(leaf.size for leaf in jax.tree.leaves(params))
  for context, dtype in ((16, "float32"), (48, "bfloat16")):
    memory = context if name == "translation" else 0
    state = model.initial_state(1, context, memory, jnp.dtype(dtype))
    real = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state))
    assert counts.state_bytes(config, context, dtype) == real


def test_only_unbounded_attention_keeps_more_of_a_longer_context():
  def growth(name):
    config = model_config(vocab_size=64, d_model=32, repeats=2, **MODELS[name])
    return counts.state_bytes(config, 1024) - counts.state_bytes(config, 512)

  a_token = 2 * 32 * 4 + 4  # a key, a value, and their position
  assert growth("attention") == 2 * 512 * a_token
  assert growth("hybrid") == 2 * 512 * a_token
  assert [growth(name) for name in ("window", "lstm", "s5", "mamba", "rwkv4")] == [0] * 5
