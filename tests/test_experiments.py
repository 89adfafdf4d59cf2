"""Every experiment on disk: its header, its names, its decoding, one loss under every layout."""

import functools
import pathlib
import re

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from llm_jax import config as config_schema
from llm_jax import objective
from llm_jax.data import corpora, records
from llm_jax.data.tokenizers import Vocabulary
from llm_jax.models import build, spec
from llm_jax.objective import Teacher
from llm_jax.training import inputs, strategies

FILES = sorted(config_schema.EXPERIMENTS.rglob("*.py"))
NAMES = [str(path.relative_to(config_schema.EXPERIMENTS).with_suffix("")) for path in FILES]
T, V = 16, 131  # ids enough for the special tokens of every objective


def config_of(name, mode="tiny"):
  return config_schema.load(f"{config_schema.EXPERIMENTS / name}.py:{mode}", [])


MODELS = [name for name in NAMES if "model" in config_of(name)]
DECODERS = [  # those that write text
  name
  for name in MODELS
  if config_of(name).model.kind == "decoder" and config_of(name).model.heads[0] == "language_model"
]


def parts_of(name):
  """What a model is put together from, each part with the kind of model it serves."""
  kind, layers = config_of(name).model.kind, config_of(name).model.layers.items()
  return {kind} | {(kind, fields.get("type", layer)) for layer, fields in layers}


def kind_of(name):
  return {config_of(name).model.kind}


def that_bring_more(parts, names):
  """Experiments to try; one of whose parts all occur in earlier ones is slow."""
  seen, found = set(), []
  for name in names:
    found.append(pytest.param(name, marks=[pytest.mark.slow] * (parts(name) <= seen)))
    seen |= parts(name)
  return pytest.mark.parametrize("name", found)


def tiny_model(name, **model_options):
  config = config_of(name)
  config.model.update({"vocab_size": V, **model_options})
  return config


def model_and_batch(name):
  """A tiny model without dropout, and a batch of eight rows for it, with its config."""
  config = tiny_model(name, dropout_rate=0.0)
  if "token_dropout" in config.objective_options:
    config.objective_options.token_dropout = 0.0
  chosen = objective.make(config)
  if hasattr(chosen, "examples"):
    config.model.vocab_size = 0  # the tokenizer's
    part = records.Records("samples", [sample(number) for number in range(24)], "")
    if not chosen.FIELDS:
      part = corpora.Corpus("samples", [f"{chr(97 + i)} {i} is" * 3 for i in range(24)], "", 1)
    text = inputs.Text(((part, 1.0),), ((part, 1.0),), "")
    if hasattr(chosen, "parts"):
      text = inputs.load_text(config)
    tokenizer = inputs.load_tokenizer(config, config_schema.EXPERIMENTS, text)
    labels = inputs.load_labels(config, text)
    batches = inputs.Batches(config, text, tokenizer, labels)
    return config, inputs.model(config, tokenizer, labels), next(batches.train)
  rng = np.random.default_rng(0)
  shape = (8, T + 1)
  segments = np.ones(shape, np.int32)
  segments[1, 9:], segments[2, 12:] = 2, 0  # a packed row, and uneven padding
  rows = {"tokens": rng.integers(0, V, shape), "segments": segments}
  rows["document_ids"] = np.zeros(shape, np.int32)
  vocabulary = Vocabulary.numbered(V, chosen.SPECIAL_TOKENS)
  examples = [chosen.transform({k: v[b] for k, v in rows.items()}, vocabulary) for b in range(8)]
  batch = {key: np.stack([example[key] for example in examples]) for key in examples[0]}
  return config, build.build(config.model), batch


def sample(number):
  """A record with every field that an objective reads, few enough bytes for a tiny row."""
  one, two = chr(97 + number), chr(98 + number)
  return {
    "text": f"{one}{two}",
    "text_b": two,
    "positive": two,
    "label": f"{number % 2}",
    "words": [one, two],
    "tags": ["B-x", "O"],
    "source": f"{one} {two}",
    "target": f"{two}{one}",
    "question": f"{one}?",
    "context": f"{one} {two} {one}",
    "answers": [[two, 2]],
    "id": f"{number}",
  }


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_how_to_run_it_and_what_to_expect(name):
  header = (config_schema.EXPERIMENTS / f"{name}.py").read_text().split('"""')[1]
  header = re.sub(r" \\\n +", " ", header)  # a command of several lines
  config = config_of(name)
  verb = "train" if "model" in config else "compare"
  train = f"{verb} --config=experiments/{name}.py"
  asked = "model" in config and objective.make(config)
  given = asked and asked.FIELDS and not hasattr(asked, "parts")
  data = given and r" --config\.data\.path=\S+"
  assert re.search(rf"Run: python launch.py( {train}{data or ''}( --config\.\S+=\S+)*)?\n", header)
  assert re.search(r"Takes: .+\n", header)
  assert re.search(r"Expect: .*\d\.\d", header)


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_has_the_shared_names(name):
  config = config_of(name, "")
  # Those of each model that is compared.
  own = {"compare": {"model", "init_from"}, "scaling": {"model", "init_from", "steps"}}
  own = set().union(*(names for section, names in own.items() if section in config))
  assert set(config_schema.base()) <= set(config) | own


def losses(name, start=None, devices=None, **parallel):
  """Of three steps, and the state before them, which begins from the parameters of `start`."""
  config, model, batch = model_and_batch(name)
  config.parallel.update(parallel)
  config.steps, config.schedule.warmup_fraction = 3, 0.0
  chosen, taught = objective.make(config), {}
  if hasattr(chosen, "teacher"):
    taught["teacher"] = Teacher(build.init_params(model, jax.random.key(1)), model)
  strategy = strategies.make(config, model, chosen, devices, taught)
  state = strategy.from_checkpoint(start) if start else strategy.init(jax.random.PRNGKey(0))
  begun = jax.tree.map(np.asarray, strategy.to_checkpoint(state))
  found = []
  for _ in range(3):
    state, metrics = strategy.step(state, strategy.put(batch))
    found.append(float(np.asarray(metrics["loss"])))
  return found, begun


@functools.cache
def of_one_device(name):
  found, begun = losses(name, devices=jax.devices()[:1])
  assert found[2] < found[0]
  return found, begun


@that_bring_more(parts_of, MODELS)
def test_a_mesh_gives_the_loss_curve_of_one_device(name):
  """2 data x 2 fsdp x 2 tensor."""
  one, begun = of_one_device(name)
  mesh, _ = losses(name, begun, strategy="mesh", axes={"data": 2, "fsdp": 2, "tensor": 2})
  np.testing.assert_allclose(mesh, one, rtol=1e-5)


@that_bring_more(kind_of, MODELS)
def test_pmap_gives_the_loss_curve_of_one_device(name):
  """The very program of one device, on eight; `test_parallel` has more of it."""
  one, begun = of_one_device(name)
  np.testing.assert_allclose(losses(name, begun)[0], one, rtol=1e-5)


@that_bring_more(parts_of, DECODERS)
def test_prefill_and_decoding_equal_the_whole_pass(name):
  model = build.build(tiny_model(name).model)
  params = build.init_params(model, jax.random.key(0))
  tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, V)
  apply = jax.jit(model.apply)
  whole = apply({"params": params}, tokens).logits
  output = apply({"params": params}, tokens[:, :7], state=model.initial_state(2, T))
  parts = [output.logits]
  for t in (7, 8):
    output = apply({"params": params}, tokens[:, t : t + 1], state=output.state)
    parts.append(output.logits)
  np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_of_a_pattern_has_its_hyperparameters_in_the_config(name):
  model = config_of(name, "").model
  whole = ConfigDict({**model.to_dict(), "vocab_size": V, "num_classes": 2})
  for layer in spec.parse(whole).layers:
    assert layer in model.layers


def test_experiments_are_found_on_disk():
  assert pathlib.Path("gpt2").name in NAMES
  assert "compare_quick" in NAMES
