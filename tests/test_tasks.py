"""Synthetic tasks: the contract, on every file in `llm_jax/data/tasks`, and their objective."""

import numpy as np
import pytest

from llm_jax import config as config_schema
from llm_jax import objective
from llm_jax.data import task as tasks
from llm_jax.errors import UserError
from llm_jax.objectives.synthetic import Synthetic
from llm_jax.training import inputs

EXPERIMENT = str(config_schema.EXPERIMENTS / "synthetic.py")
every_task = pytest.mark.parametrize("name", tasks.names())


def seeded(*seed):
  return np.random.RandomState(np.random.PCG64(list(seed)))


def same(one, other):
  return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@every_task
def test_symbols_are_distinct_names_and_the_first_is_blank(name):
  made = tasks.make(tasks.options(name))
  assert made.symbols[0] == tasks.BLANK
  assert len(set(made.symbols)) == len(made.symbols)
  assert not any(" " in symbol or not symbol for symbol in made.symbols)
  assert made.METRIC in ("accuracy", "exact", "loss")


@every_task
def test_examples_fit_their_sizes_and_ask_for_something(name):
  made = tasks.make(tasks.options(name))
  longest = {None: 0}
  for group in (None, *range(len(made.groups))):
    for number in range(12):
      tokens, targets, counted = made.draw(seeded(number, group or 0), group)
      room = made.length if group is None else made.held_out_length
      assert len(tokens) == len(targets) == len(counted) <= room
      assert set(np.unique(counted)) <= {0, 1} and sum(counted) > 0
      for ids in (tokens, targets):
        assert min(ids) >= 0 and max(ids) < len(made.symbols)
      longest[group] = max(longest.get(group, 0), len(tokens))
  assert len(set(made.groups)) == len(made.groups) >= 1
  held_out = max(length for group, length in longest.items() if group is not None)
  assert held_out == made.held_out_length


@every_task
def test_an_example_is_a_function_of_what_is_drawn(name):
  made = tasks.make(tasks.options(name))
  for group in (None, 0):
    assert same(made.draw(seeded(1), group), made.draw(seeded(1), group))
    others = [made.draw(seeded(number), group) for number in range(8)]
    assert len({tuple(map(int, tokens)) for tokens, _, _ in others}) > 1


def text_of(**overrides):
  config = config_schema.load(f"{EXPERIMENT}:tiny", [])
  config.objective_options.update(overrides)
  text = inputs.load_text(config)
  return config, text, inputs.load_tokenizer(config, config_schema.EXPERIMENTS, text)


def batches_of(seed=0, **overrides):
  config, text, tokenizer = text_of(**overrides)
  config.seed = seed
  return inputs.Batches(config, text, tokenizer)


def first(iterator, count=3):
  return [next(iterator) for _ in range(count)]


def rows_of(batches):
  return [tuple(row) for batch in batches for row in batch["tokens"].tolist()]


def test_drawn_anew_no_example_comes_twice_and_another_seed_has_others():
  one, other = (rows_of(first(batches_of(seed).train, 8)) for seed in (0, 1))
  assert len(set(one)) == len(one)
  assert not set(one) & set(other)
  assert one == rows_of(first(batches_of(0).train, 8))


def test_a_training_set_of_fixed_size_is_the_same_for_all_seeds_and_comes_again():
  one, other = (rows_of(first(batches_of(seed, training_set=8).train, 3)) for seed in (0, 1))
  assert len(set(one)) == 8 and len(one) == 24
  assert one != other and set(one) == set(other)


def test_held_out_examples_do_not_depend_on_the_seed_and_are_not_trained_on():
  held_out = rows_of(batches_of(0, held_out=16).validation())
  assert held_out == rows_of(batches_of(1, held_out=16).validation())
  assert not set(held_out) & set(rows_of(first(batches_of(0, training_set=16).train, 2)))
  others = rows_of(batches_of(0, held_out=16, held_out_seed=1).validation())
  assert not set(held_out) & set(others)


def test_each_kind_is_scored_by_itself():
  asked = Synthetic(task=tasks.options("parity", longest=4, held_out_lengths=(3, 4)), held_out=4)
  rows = asked.examples(asked.parts()[1].records, None, (), 5)
  assert rows["kind"].tolist() == [0, 1] * 4
  assert rows["tokens"].shape == (8, 5)
  assert rows["segments"].sum(1).tolist() == [4, 5] * 4

  class Knowing:
    """Right about all of the first kind, wrong about all of the second."""

    def apply(self, variables, tokens, **_):
      import jax.nn
      import jax.numpy as jnp

      from llm_jax.models.output import Output

      answers = jnp.where(rows["kind"][:, None] == 0, rows["targets"], 0)
      logits = 50.0 * jax.nn.one_hot(answers, len(asked.symbols))
      return Output(logits, None, None, {"language_model": logits}), {}

  sums, metrics = asked.loss(Knowing(), {}, rows, {}, train=False)
  told = {name: float(total / count) for name, (total, count) in metrics.items()}
  assert told["accuracy/length_3"] == 1.0 and told["accuracy/length_4"] == 0.0
  assert told["accuracy"] == told["exact"] == 0.5
  assert float(sums["tokens"]) == pytest.approx(4 * 50, rel=1e-3)
  assert told["loss"] == pytest.approx(25, rel=1e-3)


def test_the_vocabulary_is_the_symbols_and_texts_are_read_by_them():
  config, _, tokenizer = text_of()
  asked = objective.make(config)
  assert tokenizer.vocab_size == len(asked.symbols)
  ids = [0, 1, 5, 2]
  assert tokenizer.encode(" ".join(asked.symbols[i] for i in ids[1:])) == ids[1:]
  assert tokenizer.decode(ids[1:]) == " ".join(asked.symbols[i] for i in ids[1:])


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"task": {"name": "parrity"}}, "parity"),
    ({"task": {"name": "parity", "longst": 3}}, "longest"),
    ({"task": {"name": "parity", "longest": 0}}, "1 or more"),
    ({"task": {"name": "associative_recall", "pairs": 40}}, "160"),
    ({"held_out": 0}, "held_out"),
    ({"training_set": -1}, "training_set"),
  ],
)
def test_mistakes_are_refused_by_name(change, said):
  with pytest.raises(UserError, match=said):
    Synthetic(**change)


def test_rows_of_another_length_and_other_data_are_refused():
  config, text, tokenizer = text_of()
  config.seq_len = 24
  with pytest.raises(UserError, match="seq_len=16"):
    inputs.Batches(config, text, tokenizer)
  config.data.path = "text.txt"
  with pytest.raises(UserError, match=r"data\.path"):
    inputs.load_text(config)


def test_a_model_with_too_few_positions_for_held_out_examples_is_refused():
  config = config_schema.load(f"{EXPERIMENT}:parity", [])
  config.model.update({"positions": "learned", "max_length": 64})
  tokenizer = inputs.load_tokenizer(config, config_schema.EXPERIMENTS, inputs.load_text(config))
  with pytest.raises(UserError, match="161 tokens"):
    inputs.model(config, tokenizer)
