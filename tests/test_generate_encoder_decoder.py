"""Decoding of encoder-decoders: against the whole forward pass, ragged, in pieces, and in place.

Legend: B batch, S source position, T target position, V vocabulary.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.errors import UserError
from llm_jax.inference.generate import generate, stream
from llm_jax.inference.reading import padded, read_sources
from llm_jax.models.build import abstract_params, build
from llm_jax.models.spec import model_config

V, START = 61, 5
SHARED = {
  "kind": "encoder_decoder",
  "vocab_size": V,
  "d_model": 32,
  "pattern": ("attention", "cross_attention", "mlp"),
  "repeats": 2,
  "encoder_repeats": 1,
  "tie_embeddings": False,
  "decoder_start_id": START,
}
MODELS = {
  "learned": {"positions": "learned", "max_length": 20, "position_offset": 2},
  "relative": {"positions": "relative", "position_buckets": 8, "position_max_distance": 12},
}
rng = np.random.default_rng(0)
SOURCES = [rng.integers(0, V, length).tolist() for length in (1, 9, 4, 17)]


@functools.cache
def made(name):
  """A model and parameters so large that its choices vary."""
  model = build(model_config(**SHARED, **MODELS[name]))

  def draw(path, leaf):
    noise = np.random.default_rng(sum(map(ord, jax.tree_util.keystr(path)))).normal(size=leaf.shape)
    return jnp.asarray(0.3 * noise + ("scale" in str(path[-1])), jnp.float32)

  return model, jax.tree_util.tree_map_with_path(draw, abstract_params(model))


@pytest.mark.parametrize("name", MODELS)
def test_greedy_decoding_is_the_argmax_of_the_whole_forward_pass(name):
  model, params = made(name)
  rows = generate(model, params, SOURCES, max_new_tokens=12)
  assert len(set(itertools.chain(*rows))) > 6 and len(set(map(tuple, rows))) == len(rows)
  source_BS, segments_BS = padded(SOURCES)
  target_BT = np.array([[START, *row[:-1]] for row in rows])
  call = functools.partial(jax.jit(model.apply), {"params": params}, source_BS, target_BT)
  logits_BTV = call(source_segments=segments_BS).logits
  assert logits_BTV.argmax(-1).tolist() == rows


def test_streaming_equals_whole_and_a_ragged_batch_one_by_one():
  model, params = made("relative")
  whole = generate(model, params, SOURCES, max_new_tokens=12)
  pieces = stream(model, params, SOURCES, chunk=5, max_new_tokens=12)
  assert [list(itertools.chain(*parts)) for parts in zip(*pieces, strict=True)] == whole
  for source, row in zip(SOURCES[1:3], whole[1:3], strict=True):
    assert generate(model, params, [source], max_new_tokens=12) == [row]
  end = whole[1][4]
  cut = [row[: row.index(end) + 1] if end in row else row for row in whole]
  assert generate(model, params, SOURCES, max_new_tokens=12, eos_token_id=end) == cut


def test_samples_of_one_source_stand_together_and_differ():
  model, params = made("relative")
  options = {"max_new_tokens": 12, "method": "sample", "seed": 5}
  rows = generate(model, params, SOURCES, num_return_sequences=2, temperature=2.0, **options)
  assert len(set(map(tuple, rows))) == 8
  cold = generate(model, params, SOURCES, num_return_sequences=2, temperature=1e-4, **options)
  greedy = generate(model, params, SOURCES, max_new_tokens=12)
  assert cold == [row for row in greedy for _ in range(2)]


def test_sources_are_read_once_and_leave_their_projections_in_the_state():
  model, params = made("learned")
  source_BS, segments_BS = padded(SOURCES)
  state = read_sources(model, params, source_BS, segments_BS, 16)
  assert state.position_B.tolist() == [0] * len(SOURCES)
  np.testing.assert_array_equal(state.memory_segments_BS, segments_BS)
  for repeat, layers in enumerate(state.layers[0]):
    assert (layers["0_attention"]["positions"] == -1).all()
    kernel = params["stack"]["0"]["1_cross_attention"]["k"]["kernel"][repeat]
    bias = params["stack"]["0"]["1_cross_attention"]["k"]["bias"][repeat]
    encode = functools.partial(jax.jit(model.apply, static_argnames="method"), method="encode")
    memory_BSD = encode({"params": params}, source_BS, segments_BS)
    expected = jnp.einsum("bsd,dgk->bgsk", memory_BSD, kernel) + bias[None, :, None]
    found = layers["1_cross_attention"]["k"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_nothing_is_traced_for_other_sources_of_a_bucket():
  model, params = made("learned")
  generate(model, params, [[1] * 20, [2], [3], [4]], max_new_tokens=13)
  with jax.no_tracing():
    generate(model, params, SOURCES, max_new_tokens=9)


class Digits:
  """A tokenizer of digits; 0 is its end token, and it may have another for the begin."""

  end_id = 0

  def __init__(self, begin_id=0):
    self.begin_id = begin_id

  def encode(self, text):
    return [int(letter) for letter in text]

  encode_with_gaps = encode

  def decode(self, ids, special, after=()):
    assert special  # the sentinels of an answer
    return ",".join(map(str, ids))


def test_a_text_is_a_source_with_its_marks():
  model, params = made("relative")
  options = {"max_new_tokens": 9, "eos_token_id": None}
  texts = generate(model, params, ["123", "", "45", "6" * 16], tokenizer=Digits(), **options)
  ids = generate(model, params, [[1, 2, 3, 0], [0], [4, 5, 0], [6] * 16 + [0]], max_new_tokens=9)
  assert texts == [",".join(map(str, row)) for row in ids]
  framed = generate(model, params, ["123"] * 4, tokenizer=Digits(begin_id=9), **options)
  ids = generate(model, params, [[9, 1, 2, 3, 0]] * 4, max_new_tokens=9)
  assert framed == [",".join(map(str, row)) for row in ids] != texts[:1] * 4


def test_each_stack_has_positions_of_its_own():
  model, params = made("learned")
  assert len(generate(model, params, [[1] * 20] * 4, max_new_tokens=16)[0]) == 16
  for source, new, message in (([1] * 21, 5, "21 tokens"), ([1], 21, "max_new_tokens is 21")):
    with pytest.raises(UserError, match=message + ".* at most 21; the model has learned 20"):
      generate(model, params, [source], max_new_tokens=new)
