"""The cross-entropy's two forms, and what next-token prediction counts as a target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.objectives.next_token import NextToken
from llm_jax.ops.cross_entropy import cross_entropy

N, D, V = 64, 16, 512


def weighted(implementation):
  def total(logits, targets, weights):
    losses, correct = cross_entropy(logits, targets, implementation=implementation)
    return jnp.sum(losses * weights), correct

  return jax.jit(jax.value_and_grad(total, has_aux=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 4e-3)])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_the_fused_form_equals_the_reference_in_value_and_gradient(dtype, tolerance, size):
  keys = jax.random.split(jax.random.key(0), 3)
  logits_BTV = (size * jax.random.normal(keys[0], (4, 16, V))).astype(dtype)
  targets_BT = jax.random.randint(keys[1], (4, 16), 0, V)
  targets_BT = targets_BT.at[0].set(jnp.argmax(logits_BTV[0], axis=-1))
  weights_BT = jax.random.uniform(keys[2], (4, 16))
  (value, correct_BT), gradient = weighted("fused")(logits_BTV, targets_BT, weights_BT)
  (wanted, hits_BT), wanted_gradient = weighted("reference")(logits_BTV, targets_BT, weights_BT)
  np.testing.assert_allclose(value, wanted, rtol=1e-5)
  np.testing.assert_array_equal(correct_BT, hits_BT)
  assert correct_BT[0].all() and not correct_BT.all()
  assert gradient.dtype == wanted_gradient.dtype == jnp.dtype(dtype)
  np.testing.assert_allclose(
    gradient.astype("float32"), wanted_gradient.astype("float32"), atol=tolerance
  )


def test_the_backward_pass_holds_one_array_as_large_as_the_logits():
  def loss(hidden_ND, head_DV, targets_N):
    logits_BTV = (hidden_ND @ head_DV).reshape(4, N // 4, V)
    return jnp.sum(cross_entropy(logits_BTV, targets_N.reshape(4, N // 4))[0])

  arguments = jnp.zeros((N, D)), jnp.zeros((D, V)), jnp.zeros(N, jnp.int32)
  compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arguments).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 1.5 * N * V * 4


def test_targets_never_cross_documents_and_padding_weighs_nothing():
  row = {
    "tokens": np.arange(10, 19),
    "segments": np.array([1, 1, 1, 2, 2, 3, 0, 0, 0]),
    "document_ids": np.array([7, 7, 7, 4, 4, 9, -1, -1, -1]),
  }
  example = NextToken().transform(row)
  np.testing.assert_array_equal(example["weights"], [1, 1, 0, 1, 0, 0, 0, 0])
  np.testing.assert_array_equal(example["tokens"], np.arange(10, 18))
  np.testing.assert_array_equal(example["targets"], np.arange(11, 19))
  np.testing.assert_array_equal(example["segments"], [1, 1, 1, 2, 2, 3, 0, 0])
  batch = {name: x[None] for name, x in example.items()}
  counts = NextToken().count({name: np.concatenate([x, 0 * x]) for name, x in batch.items()})
  assert counts["tokens"] == 3 and counts["rows"] == 1
