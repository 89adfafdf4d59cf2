"""Smoothed labels: the loss is that of a target shared with the whole vocabulary."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from llm_jax import objective
from llm_jax.ops.cross_entropy import both_entropies

N, V = 48, 96


def batch_of(key, shape=(4, 12)):
  keys = jax.random.split(key, 3)
  logits = 3 * jax.random.normal(keys[0], (*shape, V))
  batch = {
    "targets": jax.random.randint(keys[1], shape, 0, V),
    "weights": jax.random.bernoulli(keys[2], 0.7, shape).astype(jnp.float32),
    "segments": jnp.ones(shape, jnp.int32),
  }
  return logits, batch


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothed_loss_and_gradient_are_those_of_the_definition(smoothing):
  logits, batch = batch_of(jax.random.key(0))

  def ours(logits):
    sums, metrics = objective.sums(logits, {}, batch, smoothing)
    return sums["tokens"], metrics

  def definition(logits):
    labels = optax.smooth_labels(jax.nn.one_hot(batch["targets"], V), smoothing)
    return jnp.sum(optax.softmax_cross_entropy(logits, labels) * batch["weights"])

  (loss, metrics), gradient = jax.value_and_grad(ours, has_aux=True)(logits)
  wanted, wanted_gradient = jax.value_and_grad(definition)(logits)
  np.testing.assert_allclose(loss, wanted, rtol=1e-5)
  np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-6)
  plain = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
  np.testing.assert_allclose(metrics["loss"][0], jnp.sum(plain * batch["weights"]), rtol=1e-5)


@pytest.mark.parametrize("name", ["sequence_to_sequence", "prefix_answer"])
def test_objectives_of_pairs_smooth_their_labels(name):
  logits, batch = batch_of(jax.random.key(2))
  batch |= {"tokens": batch["targets"], "target_segments": batch["segments"]}
  batch["prefix"] = batch["segments"] > 0
  asked = []

  class Model:
    spec = types.SimpleNamespace(decoder_start_id=0)

    def apply(self, *arguments, **options):
      asked.append(options)
      return types.SimpleNamespace(logits=logits), {}

  options = objective.options(name, label_smoothing=0.2)
  chosen = objective.make(ConfigDict({"objective": name, "objective_options": options}))
  sums, _ = chosen.loss(Model(), {}, batch, {}, train=True)
  wanted, _ = objective.sums(logits, {}, batch, 0.2)
  np.testing.assert_allclose(sums["tokens"], wanted["tokens"], rtol=1e-6)
  assert asked[0]["train"] and ("prefix" in asked[0]) == (name == "prefix_answer")


def test_the_fused_form_of_both_entropies_equals_the_reference():
  logits, batch = batch_of(jax.random.key(1))
  mixed = lambda form: (
    lambda logits: sum(
      jnp.sum(value * factor)
      for value, factor in zip(
        both_entropies(logits, batch["targets"], implementation=form)[:2], (0.3, 0.7), strict=True
      )
    )
  )
  value, gradient = jax.value_and_grad(mixed("fused"))(logits)
  wanted, wanted_gradient = jax.value_and_grad(mixed("reference"))(logits)
  np.testing.assert_allclose(value, wanted, rtol=1e-5)
  np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-6)


def test_smoothing_takes_no_second_array_as_large_as_the_logits():
  def loss(hidden_ND, head_DV, targets_N):
    plain_N, uniform_N, _ = both_entropies((hidden_ND @ head_DV), targets_N)
    return jnp.sum(0.9 * plain_N + 0.1 * uniform_N)

  arguments = jnp.zeros((64, 16)), jnp.zeros((16, 512)), jnp.zeros(64, jnp.int32)
  compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arguments).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 1.5 * 64 * 512 * 4
