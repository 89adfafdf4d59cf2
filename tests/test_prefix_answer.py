"""A decoder that answers a prefix: what it sees, what it is asked, and that it learns to copy."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import llm_jax
from llm_jax import objective
from llm_jax.config import base
from llm_jax.data import tokenizers
from llm_jax.data.special_tokens import DELIMITER
from llm_jax.errors import UserError
from llm_jax.evaluation import tasks, translation
from llm_jax.models import build
from llm_jax.models.spec import model_config
from llm_jax.training import strategies
from llm_jax.training.runs import Trained

BYTES = tokenizers.get(ConfigDict({"name": "byte", "vocab_size": 0}), [], special=(DELIMITER,))
BEGIN, END, DELIMITED = BYTES.begin_id, BYTES.end_id, BYTES.vocabulary.id_of(DELIMITER)


def pair(source, target):
  return {"source": source, "target": target}


def test_the_answer_alone_is_predicted_and_the_delimiter_is_no_part_of_the_prefix():
  chosen, ids = objective.make(_config()), BYTES.encode
  arrays = chosen.examples([pair("ab", "c"), pair("d", "ef")], BYTES, (), 12)
  row = chosen.transform({name: array[0] for name, array in arrays.items()})
  one, two = [BEGIN, *ids("ab"), DELIMITED, *ids("c")], [BEGIN, *ids("d"), DELIMITED, *ids("ef")]
  assert row["tokens"].tolist() == [*one, *two, 0, 0]
  assert row["targets"].tolist() == [*one[1:], END, *two[1:], END, 0, 0]
  assert row["prefix"].tolist() == [True] * 3 + [False] * 2 + [True] * 2 + [False] * 5
  assert row["weights"].tolist() == [0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0]
  assert chosen.prompt("ab", BYTES) == one[:4]


@pytest.mark.parametrize(
  ("records", "options", "message"),
  [
    ([pair("a", "b"), pair("a", "")], {}, r"Record 2 .* has no target"),
    ([pair("abcdef", "b" * 5)], {}, "Record 1 .* 11 tokens, and a row has room for 10"),
    ([pair("abcdef", "b" * 5)], {"too_long": "drop"}, "No pair is left"),
    ([pair("a", "b")], {"label_smoothing": -0.1}, "label_smoothing"),
  ],
)
def test_bad_input_is_named(records, options, message):
  with pytest.raises(UserError, match=message):
    objective.make(_config(**options)).examples(records, BYTES, (), 12)


def test_a_long_pair_is_cut_where_it_is_longer():
  chosen = objective.make(_config(too_long="cut"))
  for source, target, kept in (("s" * 20, "ttt", 3), ("ss", "t" * 20, 8), ("s" * 9, "t" * 9, 5)):
    arrays = chosen.examples([pair(source, target)], BYTES, (), 12)
    assert (arrays["tokens"] == BYTES.encode("t")[0]).sum() == kept
    assert (arrays["segments"] > 0).all()


@pytest.mark.parametrize("layer", ["attention", "rwkv7_time_mix"])
def test_a_prompt_read_by_generate_is_what_training_saw(layer):
  """The first token generated is the likeliest at the delimiter of a packed row, and a prefix of
  attention is seen both ways."""
  config = _config(layer)
  model, chosen = build.build(config.model), objective.make(config)
  params = jax.tree.map(lambda x: 3 * x, build.init_params(model, jax.random.key(0)))
  arrays = chosen.examples([pair("xyz", "u"), pair("abcd", "ef")], BYTES, (), 16)
  apply = jax.jit(lambda **how: model.apply({"params": params}, arrays["tokens"], **how).logits)
  logits = apply(segments=arrays["segments"], prefix=arrays["prefix"])
  prompts = [chosen.prompt(text, BYTES) for text in ("xyz", "abcd")]
  made = llm_jax.generate(
    model, params, prompts, max_new_tokens=1, prefix=True, return_log_probs=True
  )
  log_probs = jax.nn.log_softmax(logits[0, np.array([4, 6 + 5])])
  np.testing.assert_allclose([row.log_probs[0] for row in made], log_probs.max(-1), atol=1e-4)
  assert [row.ids[0] for row in made] == log_probs.argmax(-1).tolist()
  causal = apply(segments=arrays["segments"])
  assert (np.abs(logits - causal).max() > 1e-3) == (layer == "attention")


def test_a_prefix_is_for_decoders():
  config = _config()
  config.model.kind = "encoder_decoder"
  with pytest.raises(UserError, match="prefix is for a decoder"):
    llm_jax.generate(build.build(config.model), {}, [[1]], prefix=True)


def test_answers_have_the_room_that_learned_positions_leave_them():
  config = _config()
  config.model.update(positions="learned", max_length=12)
  model = build.build(config.model)
  run = Trained(config, BYTES, model, build.init_params(model, jax.random.key(0)), (), "")
  assert len(translation.answers(run, ["abcde", "a"], 1, 1.0)) == 2
  with pytest.raises(UserError, match=r"13 tokens .* 12 positions"):
    translation.answers(run, ["a" * 11], 1, 1.0)


def test_copying_is_learned_to_near_zero_loss(monkeypatch):
  config = _config()
  model, chosen = build.build(config.model), objective.make(config)
  random = np.random.default_rng(0)
  words = ["".join(random.choice(list("abcd"), 3)) for _ in range(64)]
  arrays = chosen.examples([pair(word, word) for word in words], BYTES, (), 64)
  rows = [chosen.transform({k: v[i] for k, v in arrays.items()}) for i in range(8)]
  batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
  strategy = strategies.make(config, model, chosen, jax.devices()[:1])
  state = strategy.init(jax.random.PRNGKey(0))
  for _ in range(config.steps):
    state, metrics = strategy.step(state, strategy.put(batch))
  assert metrics["loss"] < 0.05
  params = jax.tree.map(np.asarray, strategy.to_checkpoint(state).params)
  run = Trained(config, BYTES, model, params, (), "")
  found = translation.scores(run, [pair(word, word) for word in words[:9]], num_beams=1)
  assert found["chrf"] == 100
  assert found["samples"][1] == {"source": words[1], "target": words[1], "answer": words[1]}
  task, seen = [{"prompt": word, "references": [word]} for word in words[:9]], []
  spy = lambda *given, **options: seen.append(options) or llm_jax.generate(*given, **options)
  monkeypatch.setattr(tasks, "generate", spy)
  assert tasks.generation(run, task, ["chrf"], 5, {})["chrf"] == 100
  assert [options["prefix"] for options in seen] == [True]


def _config(layer="attention", **options):
  config = base()
  config.objective, config.steps, config.seq_len = "prefix_answer", 120, 32
  config.objective_options = objective.options("prefix_answer")
  config.objective_options.update(options)
  config.optimizer.learning_rate = 1e-2
  config.model = model_config(
    vocab_size=BYTES.vocab_size,
    d_model=32,
    pattern=(layer, "mlp"),
    repeats=1 if layer != "attention" else 2,
    layers={"attention": {"positions": "rope"}},
  )
  return config
