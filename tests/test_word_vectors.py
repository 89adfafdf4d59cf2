"""Word vectors: what word2vec and GloVe are shown, what they learn, and what starts from them."""

import collections
import itertools
import json

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from ml_collections import ConfigDict

from llm_jax import config as config_schema
from llm_jax import objective
from llm_jax.data import tokenizers
from llm_jax.data.tokenizers import Vocabulary
from llm_jax.errors import UserError
from llm_jax.evaluation import neighbours
from llm_jax.models import build, word_vectors
from llm_jax.models.spec import model_config
from llm_jax.objectives.glove import Glove
from llm_jax.objectives.word2vec import Word2vec
from llm_jax.training import checkpoints, loop, runs, word_table

V = 40  # 0 is the end
FREQUENT = np.array([50, *range(1, V)])
VOCABULARY = Vocabulary(V, (("<end>", 0),), counts=FREQUENT)


def row_of(tokens, segments=None, place=0):
  tokens = np.array([*tokens, 0], np.int32)
  segments = np.ones(len(tokens), np.int32) if segments is None else np.array([*segments, 0])
  key = np.array([5, place, 0], np.uint32)
  return {"tokens": tokens, "segments": segments, "document_ids": segments - 1, "key": key}


@hypothesis.given(
  st.lists(st.tuples(st.integers(0, V - 1), st.booleans()), min_size=2, max_size=30),
  st.integers(1, 4),
  st.integers(0, 9),
)
@hypothesis.settings(deadline=None, max_examples=150)
def test_words_meet_those_of_their_document_within_a_window_on_both_sides(pairs, window, place):
  segments = np.cumsum([1, *(new for _, new in pairs[1:])])
  row = row_of([token for token, _ in pairs], segments, place)
  found = Word2vec(window=window, negatives=2, sample=0.0).transform(row, VOCABULARY)
  words = [(token, s) for (token, _), s in zip(pairs, segments, strict=True) if token]
  count = len(words)
  assert list(zip(found["tokens"][:count], found["segments"][:count], strict=True)) == words
  assert found["segments"][count:].sum() == found["weights"][count:].sum() == 0
  for t, (_, segment) in enumerate(words):
    met = found["others"][t, :, 0][found["weights"][t] > 0].tolist()
    reaches = [
      [
        words[j][0]
        for j in range(max(t - reach, 0), min(t + reach + 1, count))
        if j != t and words[j][1] == segment
      ]
      for reach in range(1, window + 1)
    ]
    assert met in reaches
  assert (found["others"][:count][found["weights"][:count] > 0] > 0).all()  # no special tokens


def test_reach_negatives_and_frequent_words_are_drawn_as_published():
  tokens = np.tile(np.arange(1, 21), 5)
  chosen = Word2vec(window=3, negatives=4, sample=0.0)
  found = [chosen.transform(row_of(tokens, place=p), VOCABULARY) for p in range(150)]
  inner = np.stack([f["weights"][10:90].sum(1) for f in found])
  counted = np.bincount(inner.astype(int).ravel())
  assert np.flatnonzero(counted).tolist() == [2, 4, 6]
  np.testing.assert_allclose(counted[[2, 4, 6]] / counted.sum(), 1 / 3, atol=0.02)
  drawn = np.bincount(np.concatenate([f["others"][..., 1:].ravel() for f in found]), minlength=V)
  expected = np.array([0, *np.arange(1, V) ** 0.75])
  np.testing.assert_allclose(drawn / drawn.sum(), expected / expected.sum(), atol=0.002)
  sampled = Word2vec(sample=0.01)
  kept = [sampled.transform(row_of(tokens, place=p), VOCABULARY) for p in range(400)]
  words = np.concatenate([f["tokens"][f["segments"] > 0] for f in kept])
  rate = np.bincount(words, minlength=V)[1:21] / (5 * 400)
  ratio = 0.01 / (np.arange(1, 21) / np.arange(1, V).sum())
  np.testing.assert_allclose(rate, np.minimum(np.sqrt(ratio) + ratio, 1), atol=0.05)
  again = sampled.transform(row_of(tokens, place=3), VOCABULARY)
  jax.tree.map(np.testing.assert_array_equal, again, kept[3])


def tables(size, seed=0):
  random = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)
  context = {"tokens": draw(size, 8), "bias": draw(size)}
  return {"embed": {"tokens": draw(size, 8)}, "context": context, "bias": draw(size)}


def test_word2vecs_loss_is_that_of_the_paper_and_a_word_is_no_negative_of_itself():
  params = tables(V)
  params = {"embed": params["embed"], "context": {"tokens": params["context"]["tokens"]}}
  config = model_config(
    kind="word_vectors", heads=("context",), pattern=(), vocab_size=V, d_model=8
  )
  chosen = Word2vec(window=2, negatives=3, sample=0.0)
  examples = [
    chosen.transform(row_of(range(1, 12), place=p), Vocabulary(V, VOCABULARY.special))
    for p in (0, 1)
  ]
  examples[0]["others"][0, 2, 2] = examples[0]["others"][0, 2, 0]
  batch = {name: jnp.stack([e[name] for e in examples]) for name in examples[0]}
  sums, metrics = chosen.loss(build.build(config), params, batch, {}, train=False)
  word, around = np.asarray(params["embed"]["tokens"]), np.asarray(params["context"]["tokens"])
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  total, pairs = 0.0, 0
  for example in examples:
    for t, c in zip(*np.nonzero(example["weights"]), strict=True):
      true, *others = example["others"][t, c]
      total -= np.log(sigmoid(word[example["tokens"][t]] @ around[true]))
      total -= sum(
        np.log(sigmoid(-word[example["tokens"][t]] @ around[o])) for o in others if o != true
      )
      pairs += 1
  assert float(sums["tokens"]) == pytest.approx(total, rel=1e-4)
  assert metrics["loss"][1] == chosen.count(batch)["tokens"] == pairs


def test_gloves_counts_weights_and_loss_are_those_of_the_paper():
  tokenizer = tokenizers.get(ConfigDict({"name": "byte", "vocab_size": 0}), [])
  documents = ["abcab", "ca", "b"]
  chosen = Glove(window=3, x_max=2.0)
  encoded = tokenizer.encode_documents(documents)
  found = zip(*chosen.counted(encoded, tokenizer.vocabulary), strict=True)
  found = {(tokenizer.decode([i]), tokenizer.decode([j])): float(x) for i, j, x in found}
  expected = collections.Counter()
  for text, (i, j) in ((t, p) for t in documents for p in itertools.permutations(range(len(t)), 2)):
    if abs(i - j) <= 3:
      expected[text[i], text[j]] += 1 / abs(i - j)
  assert found == pytest.approx(dict(expected))
  rows = chosen.examples(documents, tokenizer, (), 4)
  real = rows["segments"] > 0
  assert real.sum() == len(found) and rows["tokens"].shape[1] == 4
  size = tokenizer.vocab_size
  config = model_config(
    kind="word_vectors",
    heads=("context",),
    pattern=(),
    vocab_size=size,
    d_model=8,
    head_bias=True,
  )
  params = tables(size)
  batch = {name: jnp.asarray(x) for name, x in rows.items()}
  sums, metrics = chosen.loss(build.build(config), params, batch, {}, train=False)
  word, around = np.asarray(params["embed"]["tokens"]), np.asarray(params["context"]["tokens"])
  bias = np.asarray(params["bias"])[:, None] + np.asarray(params["context"]["bias"])
  total = 0.0
  for (one, two), count in expected.items():
    i, j = tokenizer.encode(one)[0], tokenizer.encode(two)[0]
    error = word[i] @ around[j] + bias[i, j] - np.log(count)
    total += min(count / 2, 1) ** 0.75 * error**2
  assert float(sums["tokens"]) == pytest.approx(total, rel=1e-4)
  assert metrics["loss"][1] == chosen.count(batch)["tokens"] == len(expected)


def corpus(path):
  """Cats and dogs do the same, and so do ships and boats."""
  random = np.random.default_rng(0)
  alike = (
    (["cat", "dog"], ["purrs", "barks", "eats"]),
    (["ship", "boat"], ["sails", "sinks", "lands"]),
  )
  documents = []
  for _ in range(60):
    (who, what) = alike[random.integers(2)]
    parts = [f" the {random.choice(who)} {random.choice(what)} ." for _ in range(12)]
    documents.append("".join(parts).strip())
  path.write_text("\n".join(json.dumps({"text": text}) for text in documents))
  return str(path)


def trained(folder, name):
  config = config_schema.load(f"{config_schema.EXPERIMENTS / 'words' / name}.py:tiny", [])
  config.data.path, config.data.validation_fraction = corpus(folder / "text.jsonl"), 0.1
  config.tokenizer.name, config.steps, config.seq_len = "word", 120, 32
  config.optimizer.learning_rate, config.model.d_model = 0.05, 16
  config.checkpoint.every, config.log.every = 120, 60
  result = loop.train(config, folder / name, progress=False)
  return folder / name, result


@pytest.mark.parametrize("name", ["word2vec", "glove"])
def test_words_that_stand_in_like_places_become_neighbours_and_start_another_model(name, tmp_path):
  folder, result = trained(tmp_path, name)
  assert "bits_per_byte" not in result
  found = neighbours.evaluate(folder, ["cat", "ship"], count=50)["neighbours"]
  cat, ship = dict(found["cat"]), dict(found["ship"])
  assert max(cat["ship"], cat["boat"], cat["lands"]) + 0.1 < cat["dog"]
  assert max(ship["cat"], ship["dog"], ship["barks"]) + 0.1 < ship["boat"]
  assert len(neighbours.evaluate(folder)["neighbours"]) >= 8  # of four letters or more
  with pytest.raises(UserError, match="'zebra' is no single piece"):
    neighbours.evaluate(folder, ["zebra"])

  config = config_schema.load(f"{config_schema.EXPERIMENTS / 'elman.py'}:tiny", [])
  config.data.path, config.data.validation_fraction = str(tmp_path / "text.jsonl"), 0.1
  config.tokenizer.name, config.tokenizer.vocab_size = "bpe", 290
  config.model.embedding.init_from = str(folder)
  with pytest.raises(UserError, match=r"width 16, but model.d_model is 32"):
    loop.Run(config, tmp_path / "new")
  config.model.d_model = 16
  (tmp_path / "new").mkdir()
  run = loop.Run(config, tmp_path / "new")
  run.write()
  with checkpoints.Checkpoints(tmp_path / "new", config.checkpoint) as saved:
    params = run.strategy.to_checkpoint(run.begin(saved)[1]).params
  table_VD = neighbours.normalised(np.asarray(params["embed"]["tokens"]))
  theirs = runs.read(folder)
  source_VD = neighbours.normalised(np.asarray(word_vectors.vectors(theirs.params)))
  ours = tokenizers.load(tmp_path / "new" / "tokenizer.json")
  alike = [piece for piece in (" cat", " the", " boat") if piece in ours.vocabulary.pieces]
  assert len(alike) > 1
  for piece in alike:
    here, there = (t.vocabulary.pieces.index(piece) for t in (ours, theirs.tokenizer))
    np.testing.assert_allclose(table_VD[here], source_VD[there], atol=1e-5)
  config.init_from = str(folder)
  with pytest.raises(UserError, match="takes the whole model"):
    word_table.read(config, ours)


def test_shared_rows_are_the_sources_and_others_are_fresh():
  fresh = {"embed": {"tokens": jnp.asarray(np.random.default_rng(1).normal(size=(6, 4)))}, "x": 1}
  rows = np.random.default_rng(2).normal(size=(2, 4)).astype(np.float32) * 30
  changed = word_table.put(np.array([4, 1]), rows, fresh)
  table, before = np.asarray(changed["embed"]["tokens"]), np.asarray(fresh["embed"]["tokens"])
  np.testing.assert_array_equal(table[[0, 2, 3, 5]], before[[0, 2, 3, 5]])
  factor = table[[4, 1]] / rows
  np.testing.assert_allclose(factor, factor[0, 0], rtol=1e-4)
  assert np.mean(table[[4, 1]] ** 2) == pytest.approx(np.mean(before[[4, 1]] ** 2), rel=1e-4)
  assert changed["x"] == 1


def test_what_word_vectors_cannot_be_is_refused():
  for wrong in ({"window": 0}, {"negatives": 0}, {"sample": -1.0}):
    with pytest.raises(UserError, match="window and negatives"):
      Word2vec(**wrong)
  with pytest.raises(UserError, match="x_max"):
    Glove(x_max=0.0)
  with pytest.raises(UserError, match="belong together"):
    build.build(model_config(kind="word_vectors", vocab_size=V))
  options = {"kind": "word_vectors", "heads": ("context",), "vocab_size": V}
  with pytest.raises(UserError, match="head_bias"):
    objective.check_suits(Glove(), "glove", build.build(model_config(**options)).spec)
  with pytest.raises(UserError, match="init_fron"):
    model_config(embedding={"init_fron": "x"})
  tokenizer = tokenizers.get(ConfigDict({"name": "byte", "vocab_size": 0}), [])
  with pytest.raises(UserError, match="near each other"):
    Glove().examples(["a", "b"], tokenizer, (), 4)
