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


def training_flops_per_token(model_config, seq_len: int, target_length: int | None = None) -> float:
  """FLOPs of the mean loss of one sequence and its gradient, divided by its tokens.

  Args:
    model_config: any model's.
    seq_len: tokens of the sequence, of an encoder-decoder those of its source.
    target_length: of an encoder-decoder, see `objectives`, None: as long as its source; of word
      vectors, with how many words each is compared.

  Recomputation (remat, hand-written backward passes) is counted as it runs; the optimizer, whose
  work does not depend on the tokens, is not counted.
  """
  model = build(model_config)
  second = {
    "encoder_decoder": (1, target_length or seq_len),
    "word_vectors": (1, seq_len, target_length or 1),
  }
  shapes = [(1, seq_len), *(shape for kind, shape in second.items() if kind == model.spec.kind)]

  def loss(params, key, *rows):
    log_probs = jax.nn.log_softmax(_logits(model, params, key, rows))
    targets = jnp.zeros((*log_probs.shape[:-1], 1), jnp.int32)  # of a token each, or of a row
    return -jnp.mean(jnp.take_along_axis(log_probs, targets, axis=-1))

  rows = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes]
  key = jax.eval_shape(lambda: jax.random.key(0))
  return flops(jax.value_and_grad(loss), abstract_params(model), key, *rows) / seq_len


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


def _logits(model, params, key, rows):
  """The main head's in training, of one row of tokens or of a source and a target."""
  output, _ = model.apply(
    {"params": params}, *rows, train=True, rngs={"dropout": key}, mutable=["losses"]
  )
  return next(iter(output.heads.values())) if output.logits is None else output.logits
