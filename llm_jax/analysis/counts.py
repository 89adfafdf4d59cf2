"""Parameters, FLOPs and state bytes of a model config; nothing is allocated or computed.

No architecture has a formula here: parameters and states are shapes (`jax.eval_shape`), FLOPs are
counted in the traced program (`analysis/flops`).

Legend: B batch, T position, V vocabulary.
"""

import math

import jax
import jax.numpy as jnp

from llm_jax.analysis.flops import flops
from llm_jax.models.build import abstract_params, build


def parameters(model_config) -> int:
  """How many numbers the model learns; a tied head counts once."""
  return sum(
    math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(build(model_config)))
  )


def training_flops_per_token(model_config, seq_len: int) -> float:
  """FLOPs of the mean loss of one sequence and its gradient, divided by its tokens.

  Recomputation (remat, hand-written backward passes) is counted as it runs; the optimizer, whose
  work does not depend on the tokens, is not counted.
  """
  model = build(model_config)

  def loss(params, tokens_BT, key):
    logits_BTV = _logits(model, params, tokens_BT, key)
    log_probs_BTV = jax.nn.log_softmax(logits_BTV)
    return -jnp.mean(jnp.take_along_axis(log_probs_BTV, tokens_BT[..., None], axis=-1))

  return flops(jax.value_and_grad(loss), *_abstract_inputs(model, seq_len)) / seq_len


def state_bytes(model_config, context: int, dtype: str = "float32") -> int:
  """Bytes that decoding keeps between tokens for one document of `context` tokens.

  Args:
    model_config: of a decoder or an encoder-decoder, whose memory is taken as long as its context.
    context: tokens the state must hold.
    dtype: type of caches; recurrent states are float32 whatever it says.
  """
  model = build(model_config)
  memory = context if model.spec.kind == "encoder_decoder" else 0
  state = jax.eval_shape(lambda: model.initial_state(1, context, memory, dtype=jnp.dtype(dtype)))
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def _abstract_inputs(model, seq_len: int):
  """Parameters, one row of tokens, and a random key."""
  tokens_BT = jax.ShapeDtypeStruct((1, seq_len), jnp.int32)
  return abstract_params(model), tokens_BT, jax.eval_shape(lambda: jax.random.key(0))


def _logits(model, params, tokens_BT, key):
  """Logits in training, whatever the kind of model."""
  inputs = (tokens_BT, tokens_BT) if model.spec.kind == "encoder_decoder" else (tokens_BT,)
  output, _ = model.apply(
    {"params": params}, *inputs, train=True, rngs={"dropout": key}, mutable=["losses"]
  )
  return output.logits
