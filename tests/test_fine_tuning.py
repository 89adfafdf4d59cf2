"""Fine-tuning: what a run takes from another, what it leaves as it is, and at which rates."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import config as config_schema
from llm_jax.data.special_tokens import MASK
from llm_jax.errors import UserError
from llm_jax.models import build
from llm_jax.models.spec import model_config
from llm_jax.objectives.masked_lm import MaskedLm
from llm_jax.objectives.next_token import NextToken
from llm_jax.training import inputs, loop, optimizers, parameters, strategies, workdir
from llm_jax.training.checkpoints import load_params
from llm_jax.training.unfreezing import Unfreezing

LAYERS = {"attention": {"num_heads": 2}, "mlp": {}}
MESH = {"strategy": "mesh", "axes": {"data": 2, "fsdp": 2, "tensor": 2}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
  draw = np.random.default_rng(0)
  texts = [" ".join(draw.choice(["one", "two", "three", "four"], 20)) for _ in range(40)]
  path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
  return path


def make_config(corpus, **model):
  config = config_schema.base()
  heads = {"kind": "encoder", "heads": ("masked_lm",)}
  config.model = model_config(**{"d_model": 32, "repeats": 1, "layers": LAYERS, **heads, **model})
  config.objective = "masked_lm"
  config.steps, config.batch_size, config.seq_len = 2, 8, 16
  config.data.path, config.tokenizer.name = str(corpus), "byte"
  config.log.every, config.checkpoint.every = 1, 2
  return config


def train(config, folder):
  return loop.train(config, folder, progress=False)


@pytest.fixture(scope="module")
def source(corpus, tmp_path_factory):
  """A run with two heads."""
  folder = tmp_path_factory.mktemp("source")
  train(make_config(corpus, heads=("masked_lm", "next_sentence"), norm="rmsnorm"), folder)
  return folder


def equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_body_is_taken_a_new_head_begins_fresh_and_what_has_no_place_is_left_out(
  corpus, source, tmp_path
):
  config = make_config(corpus, heads=("masked_lm", "classification"), num_classes=3, d_model=64)
  config.init_from, config.model_from_source = str(source), True
  config.optimizer.learning_rate, config.tokenizer.name = 0.0, "bpe"
  train(config, tmp_path)
  before, after = load_params(source), load_params(tmp_path)
  assert after.keys() == {"embed", "stack", "head", "classification"}
  equal(
    {name: after[name] for name in ("embed", "stack", "head")},
    {name: before[name] for name in ("embed", "stack", "head")},
  )
  assert np.std(after["classification"]["kernel"]) > 0.05
  log = (tmp_path / "log").read_text()
  assert "taken: embed, head, stack" in log
  assert "fresh: classification; left out: next_sentence, pooler" in log
  found = workdir.read_config(tmp_path)
  assert (found.model.d_model, found.model.norm) == (32, "rmsnorm")
  assert found.model.heads == ("masked_lm", "classification")
  assert found.tokenizer.name == str(source / "tokenizer.json")


def test_a_run_goes_on_without_the_source_it_began_with(corpus, source, tmp_path):
  config = make_config(corpus)
  config.init_from, config.model_from_source = str(tmp_path / "source"), True
  (tmp_path / "source").symlink_to(source)
  train(config, tmp_path / "run")
  (tmp_path / "source").unlink()
  (tmp_path / "run" / "result.json").unlink()
  assert train(config, tmp_path / "run")["step"] == 2
  with pytest.raises(UserError, match="there is none"):
    train(config, tmp_path / "other")


def test_special_tokens_that_the_source_lacks_are_new_rows_of_its_tables(
  corpus, source, tmp_path, monkeypatch
):
  monkeypatch.setattr(MaskedLm, "SPECIAL_TOKENS", (MASK, ("<one>",), ("<two>",)))
  config = make_config(corpus, head_bias=False)
  config.init_from, config.model_from_source = str(source), True
  config.optimizer.learning_rate = 0.0
  train(config, tmp_path)
  before, after = load_params(source), load_params(tmp_path)
  old, new = before["embed"]["tokens"], after["embed"]["tokens"]
  assert old.shape == (258, 32) and new.shape == (260, 32)
  np.testing.assert_array_equal(new[:258], old)
  assert np.all(np.std(new[258:], axis=1) > 0.05)
  assert "embed/tokens has grown from (258, 32) to (260, 32)" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({}, r"trained with another tokenizer .*--config\.model_from_source=True"),
    ({"tokenizer": "byte", "d_model": 64}, r"is \(258, 32\) there, \(258, 64\) here"),
    ({"tokenizer": "byte"}, r"norm/bias is no such parameter there"),
    ({"model_from_source": True, "kind": "encoder_decoder"}, "holds a model of kind 'encoder'"),
    ({"model_from_source": True, "init_from": "nowhere"}, "nowhere; there is none"),
  ],
)
def test_a_source_that_does_not_fit_is_refused(corpus, source, tmp_path, change, message):
  change = {"tokenizer": "char", "init_from": str(source), "model_from_source": False, **change}
  config = make_config(corpus)
  config.tokenizer.name = change.pop("tokenizer")
  config.update({name: change.pop(name) for name in ("init_from", "model_from_source")})
  config.model.update(change)
  with pytest.raises(UserError, match=message):
    train(config, tmp_path)


def test_the_text_of_an_imported_model_without_an_objective_is_that_of_any(corpus):
  config = make_config(corpus)
  wanted = inputs.load_text(config).sha256
  config.objective = ""
  assert inputs.load_text(config).sha256 == wanted


# ------------------------------------------------------------------------ what changes, how fast

B, T, V = 8, 16, 64


def batch_of(seed):
  tokens = np.random.default_rng(seed).integers(0, V, (B, T + 1))
  row = {"tokens": tokens, "segments": np.ones_like(tokens), "document_ids": tokens}
  examples = [NextToken().transform({k: v[b] for k, v in row.items()}) for b in range(B)]
  return {name: np.stack([e[name] for e in examples]) for name in examples[0]}


def strategy_of(devices=1, parallel=None, repeats=1, optimizer="adamw", **changes):
  config = config_schema.base()
  config.update(batch_size=B, seq_len=T, steps=40)
  config.model = model_config(vocab_size=V, d_model=32, repeats=repeats, pattern=("mlp",))
  config.optimizer.name = optimizer
  config.schedule.update(name="constant", warmup_fraction=0.0)
  config.parallel.update(parallel or {})
  config.freeze, config.unfreeze.every = changes.pop("freeze", ()), changes.pop("unfreeze", 0)
  config.optimizer.update(changes)
  model = build.build(config.model)
  return strategies.make(config, model, NextToken(), jax.devices()[:devices])


def steps(strategy, count):
  """The parameters before and after some steps, by path."""
  state, found = strategy.init(jax.random.PRNGKey(0)), []
  for seed in range(count + 1):
    found.append(parameters.flat(jax.tree.map(np.array, state.params)))
    state, _ = strategy.step(state, strategy.put(batch_of(seed)))
  return found


@pytest.mark.parametrize(
  ("optimizer", "layout"),
  [("adamw", {}), ("muon", {}), ("adafactor", {"devices": 8, "parallel": MESH})],
)
def test_what_is_frozen_stays_bit_for_bit_and_has_no_optimizer_state(layout, optimizer):
  strategy = strategy_of(**layout, optimizer=optimizer, freeze=("embed/.*", ".*/in/kernel"))
  first, last = (found := steps(strategy, 2))[0], found[2]
  still = {path for path in first if first[path].tobytes() == last[path].tobytes()}
  assert still == {"embed/tokens", "stack/0/0_mlp/in/kernel"}
  state = strategy.abstract_checkpoint()
  sizes = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  if optimizer == "adamw":
    frozen = sum(first[path].size for path in still)
    assert sizes(state.opt_state) == 2 * (sizes(state.params) - frozen) + 1


def test_no_gradient_is_computed_below_what_is_frozen():
  def products(*frozen):
    strategy = strategy_of(freeze=frozen)
    batch, state = strategy.put(batch_of(0)), strategy.init(jax.random.PRNGKey(0))
    return str(jax.make_jaxpr(strategy.step)(state, batch)).count("dot_general")

  assert products("embed/.*", "stack/0/.*") < products()


@pytest.mark.parametrize("optimizer", optimizers.NAMES)
def test_a_group_is_updated_by_its_factor_of_the_rate(optimizer):
  draw = lambda seed: {
    part: {"kernel": np.random.default_rng(seed + i).normal(size=(130, 129)).astype(np.float32)}
    for i, part in enumerate(("one", "two", "three"))
  }
  axes = {part: {"kernel": ("embed", "mlp")} for part in draw(0)}

  def updates(groups):
    config = config_schema.base().optimizer
    config.update(name=optimizer, groups=groups)
    method = optimizers.make(config, draw(0), axes)
    update = lambda g, p, rate: method.update(g, method.init(p), p, learning_rate=rate)[0]
    return jax.jit(update)(draw(5), draw(0), 0.5)

  whole = updates(())
  parts = updates((("one/.*", 0.1), ("(one|two)/.*", 0.25), ("on.*", 7.0)))
  for part, factor in (("one", 0.1), ("two", 0.25), ("three", 1.0)):
    wanted = factor * whole[part]["kernel"]
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(parts[part]["kernel"], wanted, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"freeze": ("embeds/.*",)}, r"freeze: .*matches no parameter.* nearest is 'embed/tokens'"),
    ({"freeze": ("(",)}, "regexes of parameter paths"),
    ({"freeze": (".*",)}, "no parameter to train"),
    ({"groups": (("stack/0", 0.1),)}, "groups: .*nearest is 'stack/0"),
    ({"groups": (("embed/.*", 0.1),), "freeze": ("embed/.*",)}, "matches no parameter"),
    ({"groups": (("embed/.*", -0.1),)}, "factor of 0 or more"),
    ({"groups": ("embed/.*", 0.1)}, "found the row 'embed/"),
  ],
)
def test_a_choice_of_parameters_that_means_nothing_is_refused(changes, message):
  with pytest.raises(UserError, match=message):
    strategy_of(**changes)


@pytest.mark.parametrize("layout", [{}, {"devices": 8, "parallel": MESH}], ids=["one", "mesh"])
def test_blocks_are_unfrozen_from_the_top_by_one_compiled_step(layout, monkeypatch):
  traces, loss = [], NextToken.loss

  def counted(*arguments, **options):
    traces.append(1)
    return loss(*arguments, **options)

  monkeypatch.setattr(NextToken, "loss", counted)
  strategy = strategy_of(**layout, repeats=3, unfreeze=2)
  found, changed = steps(strategy, 10), []
  for before, after in itertools.pairwise(found):
    kernel, other = (tree["stack/0/0_mlp/in/kernel"] for tree in (before, after))
    blocks = [int(np.any(kernel[i] != other[i])) for i in range(3)]
    rest = [np.any(before[p] != after[p]) for p in ("embed/tokens", "stack/final_norm/scale")]
    changed.append([int(rest[0]), *blocks, int(rest[1])])
  stages = [[0, 0, 0, 0, 1], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
  assert changed == [stage for stage in stages for _ in range(2)]
  assert len(traces) == 1


def test_an_encoder_is_unfrozen_after_its_decoder():
  config = config_schema.base()
  config.model = model_config(
    vocab_size=8,
    kind="encoder_decoder",
    d_model=32,
    repeats=2,
    encoder_repeats=1,
    positions="relative",
    layers=LAYERS,
  )
  config.unfreeze.every = 5
  model = build.build(config.model)
  old = jax.tree.map(lambda x: jnp.zeros(x.shape), build.abstract_params(model))
  new = jax.tree.map(jnp.ones_like, old)
  unfreezing = Unfreezing(config, model.spec)
  total = lambda tree: sum(float(x.sum()) for x in jax.tree.leaves(tree))
  counts = []
  for stage in range(5):
    found = unfreezing.apply(jnp.int32(5 * stage + 4), new, old)
    shares = [total(found[top]) / total(new[top]) for top in ("embed", "encoder", "stack")]
    counts.append([round(share, 1) for share in shares])
  assert [share[0] for share in counts] == [0, 0, 0, 0, 1]
  assert [share[1] for share in counts] == sorted(share[1] for share in counts)
  assert counts[2][1] == 0 and counts[3][1] > 0.9 and counts[2][2] > 0.9
  config.unfreeze.every = -1
  with pytest.raises(UserError, match=r"unfreeze\.every must be 0 or more"):
    Unfreezing(config, model.spec)
