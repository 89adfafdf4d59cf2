"""Decoding: against the whole forward pass, in ragged batches, in pieces, in place.

Legend: B batch, T position, N new token.
"""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.errors import UserError
from llm_jax.inference.generate import generate, stream
from llm_jax.inference.loop import decode, decoding_from
from llm_jax.inference.reading import initial_state, prefill, unstacked
from llm_jax.inference.rules import Rules
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
  rules = Rules(ends_E=jnp.array([end]))
  decoding, tokens_BN, _ = decode(model, params, decoding, rules, 9, 16)
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
  """A tokenizer of two tokens a letter, so that half letters happen; a text is 33 .. 0. Small
  letters show that a text goes on with another."""

  begin_id, end_id = 33, 0

  def encode(self, text):
    return [token for letter in text for token in (ord(letter) % 30 + 1, 40)]

  def decode(self, ids, special, after=()):
    assert not special
    return "".join(chr((96 if after else 64) + token % 27) for token in ids)

  def stream(self, special, after=()):
    held, decode = [], functools.partial(self.decode, special=special, after=after)

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
  assert texts == [Letters().decode(row, special=False, after=[33]) for row in ids]
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
    ([[1]], {"num_return_sequences": 2}, "Use method='sample' or"),
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
  params = unstacked(model, params)
  compiled = decode.lower(model, params, decoding, Rules(), 8, 8).compile()
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
