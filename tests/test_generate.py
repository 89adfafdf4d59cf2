"""Decoding: against the whole forward pass, in ragged batches, in pieces, in place; and sampling.

Legend: B batch, T position, N new token, V vocabulary.
"""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.errors import UserError
from llm_jax.inference import sampling
from llm_jax.inference.generate import (
  Rule,
  decode,
  decoding_from,
  generate,
  initial_state,
  prefill,
  stream,
  unstacked,
)
from llm_jax.models.build import abstract_params, build
from llm_jax.models.spec import model_config

V = 61
ROPE = {"attention": {"num_heads": 2, "positions": "rope"}}
MODELS = {
  "attention": {"layers": ROPE},
  "learned": {"positions": "learned", "max_length": 40},
  "hybrid": {
    "pattern": ("mamba", "local", "mlp"),
    "layers": ROPE | {"local": {"type": "attention", "window": 6}},
  },
  "rwkv4": {"pattern": ("rwkv4_time_mix", "rwkv4_channel_mix")},
}
rng = np.random.default_rng(0)
PROMPTS = [rng.integers(0, V, length).tolist() for length in (1, 9, 4, 17)]


def made(name):
  """A model of width 32 and parameters so large that its choices vary."""
  model = build(
    model_config(**{"vocab_size": V, "d_model": 32, "tie_embeddings": False} | MODELS[name])
  )

  def draw(path, leaf):
    noise = np.random.default_rng(sum(map(ord, jax.tree_util.keystr(path)))).normal(size=leaf.shape)
    return jnp.asarray(0.3 * noise + ("scale" in str(path[-1])), jnp.float32)

  return model, jax.tree_util.tree_map_with_path(draw, abstract_params(model))


def joined(pieces):
  return [list(itertools.chain(*parts)) for parts in zip(*pieces, strict=True)]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_decoding_is_the_argmax_of_the_whole_forward_pass(name):
  model, params = made(name)
  rows = generate(model, params, PROMPTS, max_new_tokens=12)
  assert len(set(itertools.chain(*rows))) > 6  # no model that says one thing
  tokens_BT, segments_BT = np.zeros((2, len(PROMPTS), 29), np.int32)
  for b, (prompt, row) in enumerate(zip(PROMPTS, rows, strict=True)):
    tokens_BT[b, : len(prompt) + 12] = prompt + row
    segments_BT[b, : len(prompt) + 12] = 1
  logits_BTV = jax.jit(model.apply)({"params": params}, tokens_BT, segments=segments_BT).logits
  for b, (prompt, row) in enumerate(zip(PROMPTS, rows, strict=True)):
    end = len(prompt) + 11
    assert logits_BTV[b, len(prompt) - 1 : end].argmax(-1).tolist() == row


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["greedy", "sample"])
def test_streaming_equals_whole_and_a_ragged_batch_one_by_one(name, method):
  model, params = made(name)
  options = {"max_new_tokens": 12, "method": method, "top_k": 20, "top_p": 0.9}
  whole = generate(model, params, PROMPTS, **options)
  assert joined(stream(model, params, PROMPTS, chunk=5, **options)) == whole
  # Draws belong to a row's number: compare where the prompt stands first.
  for prompt, row in (
    zip(PROMPTS, whole, strict=True) if method == "greedy" else [(PROMPTS[0], whole[0])]
  ):
    assert generate(model, params, [prompt], **options) == [row]


def test_a_row_ends_with_its_end_token_and_the_others_go_on():
  model, params = made("attention")
  free = generate(model, params, PROMPTS, max_new_tokens=12)
  end = free[1][5]
  cut = lambda row: row[: row.index(end) + 1] if end in row else row
  assert generate(model, params, PROMPTS, max_new_tokens=12, eos_token_id=end) == [*map(cut, free)]
  assert joined(
    stream(model, params, PROMPTS, chunk=4, max_new_tokens=12, eos_token_id=[end, V - 1])
  ) == [cut(row) for row in free]


def test_the_loop_stops_when_every_row_has_ended():
  model, params = made("rwkv4")
  end = generate(model, params, [[7]], max_new_tokens=1)[0][0]
  decoding = decoding_from(initial_state(model, 1, 16), [7])
  decoding, tokens_BN = decode(model, params, decoding, Rule(), np.array([end]), 9, 16)
  assert decoding.step == 1 and tokens_BN[0, :2].tolist() == [end, -1]
  assert list(stream(model, params, [[7]], chunk=2, eos_token_id=end)) == [[[end]]]


def test_samples_of_one_prompt_differ_and_come_back_with_the_seed():
  model, params = made("attention")
  options = {"max_new_tokens": 12, "method": "sample", "temperature": 2.0}
  rows = generate(model, params, PROMPTS[:2], num_return_sequences=3, seed=5, **options)
  assert len({tuple(row) for row in rows}) == 6
  assert generate(model, params, PROMPTS[:2], num_return_sequences=3, seed=5, **options) == rows
  assert generate(model, params, PROMPTS[:2], num_return_sequences=3, seed=6, **options) != rows
  cold = generate(model, params, PROMPTS, max_new_tokens=12, method="sample", temperature=1e-4)
  assert cold == generate(model, params, PROMPTS, max_new_tokens=12)


def test_nothing_is_traced_for_other_lengths_and_numbers_of_a_bucket():
  model, params = made("learned")
  options = {"method": "sample", "top_k": 3, "top_p": 0.5}
  generate(model, params, [[1] * 20, PROMPTS[1]], max_new_tokens=13, **options)
  options = {"method": "sample", "top_k": 9, "top_p": 0.7, "temperature": 0.3, "seed": 8}
  with jax.no_tracing():
    generate(model, params, [PROMPTS[0], [2] * 27], max_new_tokens=9, **options)
    with pytest.raises(RuntimeError, match="no_tracing"):
      generate(model, params, [[1] * 34], max_new_tokens=6, **options)


class Letters:
  """A tokenizer of two tokens a letter, so that half letters happen; a text is 33 .. 0."""

  begin_id, end_id = 33, 0

  def encode(self, text):
    return [token for letter in text for token in (ord(letter) % 30 + 1, 40)]

  def decode(self, ids, special):
    assert not special
    return "".join(chr(96 + token % 27) for token in ids)

  def stream(self, special):
    held, decode = [], functools.partial(self.decode, special=special)

    class Pairs:
      def push(self, token):
        held.append(token)
        return "" if len(held) % 2 else decode(held[-2:])

      def flush(self):
        return decode(held[-1:]) if len(held) % 2 else ""

    return Pairs()


def test_with_a_tokenizer_text_goes_in_and_comes_out():
  model, params = made("attention")
  options = {"tokenizer": Letters(), "max_new_tokens": 11, "eos_token_id": None}
  texts = generate(model, params, ["ab", ""], **options)
  ids = generate(model, params, [[33, *Letters().encode("ab")], [33]], max_new_tokens=11)
  assert texts == [Letters().decode(row, special=False) for row in ids]
  pieces = zip(*stream(model, params, ["ab", ""], chunk=4, **options), strict=True)
  assert ["".join(parts) for parts in pieces] == texts


@pytest.mark.parametrize(
  ("prompts", "options", "message"),
  [
    ([], {}, "at least one prompt"),
    ("abc", {}, r"write \[prompt\]"),
    ([[1], []], {"max_new_tokens": 1}, "Prompt 1 is empty"),
    ([[1, V]], {}, f"token {V}, outside the model's vocabulary of {V}"),
    ([[-1]], {}, "outside the model's vocabulary"),
    ([[1] * 30], {"max_new_tokens": 11}, "30 tokens .* 11, together 41; .* 40 positions"),
    ([[1]], {"method": "sampel"}, "Did you mean 'sample'"),
    ([[1]], {"temprature": 1.0}, "Did you mean 'temperature'"),
    ([[1]], {"method": "sample", "temperature": 0.0}, "temperature must be above 0, found 0.0"),
    ([[1]], {"method": "sample", "top_p": 0.0}, "top_p"),
    ([[1]], {"method": "sample", "top_p": 1.5}, "top_p"),
    ([[1]], {"method": "sample", "top_k": -1}, "top_k must be at least 0"),
    ([[1]], {"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ([[1]], {"num_return_sequences": 2}, "Use method='sample'"),
  ],
)
def test_a_mistake_is_told(prompts, options, message):
  model, params = made("learned")
  with pytest.raises(UserError, match=message):
    generate(model, params, prompts, **options)


def test_an_encoder_generates_nothing():
  model = build(model_config(kind="encoder", vocab_size=V, d_model=32))
  with pytest.raises(UserError, match="kind='encoder'"):
    generate(model, {}, [[1]])


def inside_the_loop(text):
  """The instructions of a compiled program's while loop and of all that it calls."""
  blocks = {}
  for block in re.split(r"\n\n", text):
    if header := re.match(r"(?:ENTRY )?%([\w.\-]+) ", block.strip()):
      blocks[header[1]] = block
  entry = next(block for block in blocks.values() if block.strip().startswith("ENTRY"))
  names = re.findall(r"body=%([\w.\-]+)", entry)
  for name in names:
    called = re.findall(r"(?:calls|body|condition|to_apply)=%([\w.\-]+)", blocks[name])
    names += [other for other in called if other not in names]
  return "\n".join(blocks[name] for name in names)


@pytest.mark.parametrize("batch", [1, 3])
def test_no_cache_and_no_weight_is_copied_for_a_token(batch):
  model, params = made("attention")
  decoding = decoding_from(initial_state(model, batch, 1024), [1] * batch)
  end_E = np.array([-1], np.int32)
  params = unstacked(model, params)
  compiled = decode.lower(model, params, decoding, Rule(), end_E, 8, 8).compile()
  instructions = inside_the_loop(compiled.as_text())
  assert "dot(" in instructions
  copied = re.findall(r"= \w+\[([\d,]*)\]\S* (?:copy|slice|transpose)\(", instructions)
  largest = max(np.prod([int(n) for n in shape.split(",") if n]) for shape in copied)
  assert largest < 32 * 32  # the smallest weight; a cache has 2 * 1024 * 16 numbers a row


def test_prefill_in_chunks_is_prefill_at_once():
  model, params = made("hybrid")
  tokens_BT = rng.integers(0, V, (2, 1024)).astype(np.int32)
  segments_BT = (np.arange(1024) < np.array([[1024], [700]])).astype(np.int32)
  chunked = prefill(model, params, initial_state(model, 2, 1024), tokens_BT, segments_BT)
  state = initial_state(model, 2, 1024)
  whole = model.apply({"params": params}, tokens_BT, segments=segments_BT, state=state).state
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), chunked, whole)


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


@pytest.mark.parametrize(
  ("options", "weights"),
  [
    ({"temperature": 1.0}, lambda p: p),
    ({"temperature": 0.5}, lambda p: p**2),
    ({"temperature": 1.0, "top_k": 3}, lambda p: p * (p >= np.sort(p)[-3])),
    ({"temperature": 2.0, "top_p": 0.6}, lambda p: p**0.5 * (np.arange(6) < 3)),
  ],
)
def test_draws_follow_the_distribution(options, weights):
  probability = np.array([0.3, 0.25, 0.2, 0.15, 0.07, 0.03])
  draws = 20_000
  logits_BV = jnp.broadcast_to(jnp.log(probability), (draws, 6))
  keys = jax.random.split(jax.random.key(3), draws)
  counts = np.bincount(sampling.sample(keys, logits_BV, **options), minlength=6)
  expected = weights(probability) / weights(probability).sum() * draws
  assert (counts[expected == 0] == 0).all()
  kept = expected > 0
  chi_squared = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
  assert chi_squared < 20.5  # one in a thousand at five degrees of freedom
