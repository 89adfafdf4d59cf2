"""Tasks of recall and memory: what examples hold, said again in another way; splits, refusals."""

import collections
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from experiments.synthetic import TASKS
from llm_jax import config as config_schema
from llm_jax.data import task as tasks
from llm_jax.errors import UserError
from llm_jax.training import inputs

EXPERIMENT = config_schema.EXPERIMENTS / "synthetic.py"


def make(name, **options):
  return tasks.make(tasks.options(name, **options))


def drawn(made, count, group=None):
  """(read, answers, counted) of examples, each token by its name, blanks as "_"."""
  names = ["_", *made.symbols[1:]]
  for number in range(count):
    random = np.random.RandomState(np.random.PCG64([number, 0 if group is None else 1 + group]))
    tokens, targets, counted = made.draw(random, group)
    yield [names[i] for i in tokens], [names[i] for i in targets], [bool(c) for c in counted]


def whole(read, answers):
  """The sequence of an example in which each token is predicted from those before."""
  assert read[1:] == answers[:-1]
  return [*read, answers[-1]]


def pairs_of(sequence):
  """[(key, value, places of the value)] of a sequence; each is a run of tokens of one letter."""
  found, key = [], ()
  for letter, run in itertools.groupby(enumerate(sequence), key=lambda at: at[1][0]):
    places, tokens = zip(*run, strict=True)
    if letter == "k":
      key = tokens
    elif letter == "v":
      found.append((key, tokens, places))
  return found


def repeated(sequence):
  """Places of the values of keys that were read before; a key never has two values."""
  values, places = {}, []
  for key, value, at in pairs_of(sequence):
    places += at if key in values else ()
    assert values.setdefault(key, value) == value
  return places


def evenly(counts, choices):
  """Whether counts of so many choices may be those of an even draw."""
  observed = np.array(list(counts.values()))
  return len(observed) == choices and fits(observed, np.full(choices, 1 / choices))


def fits(observed, law):
  """Whether counts may be those of a law, by chi-squared."""
  return stats.chisquare(observed, observed.sum() * law / law.sum()).pvalue > 1e-3


@pytest.mark.parametrize(
  ("name", "options", "expected"),
  [
    ("in_context_recall", {}, "kv"),
    ("in_context_recall", {"seq_len": 8}, "kv"),
    ("noisy_recall", {}, "kvn"),
    ("noisy_recall", {"seq_len": 8, "noise": 0.8}, "kvn"),
    ("fuzzy_recall", {}, "kv_"),
    ("fuzzy_recall", {"seq_len": 18}, "kv_"),
  ],
)
def test_recall_asks_for_what_was_read_before(name, options, expected):
  made = make(name, **options)
  letters = collections.Counter()
  for read, answers, counted in drawn(made, 60, 0):
    sequence = whole(read, answers)
    asked = [at for at, c in enumerate([False, *counted]) if c]
    assert asked == repeated(sequence)
    assert asked[-1] == len(sequence) - 1  # the row ends with an answer
    letters.update(token[0] for token in sequence)
  for read, answers, counted in drawn(made, 60):
    assert all(counted)
    places = repeated(whole(read, answers))
    assert places and places[-1] == len(read)
  assert set(letters) == set(expected)


def test_recall_draws_keys_values_and_noise_evenly():
  made = make("noisy_recall")
  keys, values, noise = (collections.Counter() for _ in range(3))
  for read, answers, _ in drawn(made, 400):
    sequence = whole(read, answers)
    keys.update(sequence[:-2:2])
    values.update({value for key, value, _ in pairs_of(sequence) if key == ("k0",)})
    noise.update(token for token in sequence if token[0] == "n")
  assert abs(sum(noise.values()) / (400 * 128) - 0.2 * 62 / 64) < 0.01
  assert evenly({key: n for key, n in keys.items() if key[0] == "k"}, 8)
  assert evenly(values, 8) and evenly(noise, 16)


def test_fuzzy_keys_have_all_lengths_in_training_and_the_greatest_when_held_out():
  made = make("fuzzy_recall")
  assert len(made.symbols) == 16
  for group, key_lengths in ((None, {1, 2, 3}), (0, {3})):
    keys, values, lengths = (collections.Counter() for _ in range(3))
    for read, answers, _ in drawn(made, 150, group):
      assert len(read) == 128
      blanks = read.index(next(token for token in read if token != "_"))
      assert "_" not in read[blanks:] and blanks >= 1
      for key, value, _ in pairs_of(whole(read, answers)):
        assert len(set(key)) == len(key) and len(set(value)) == len(value)
        keys.update(key)
        lengths[len(value)] += 1
        values[key] += 1
    assert {len(key) for key in values} == key_lengths
    assert set(lengths) == {1, 2, 3} and len(keys) == 7
    assert max(lengths.values()) < 1.3 * min(lengths.values())


def test_the_last_pair_of_fuzzy_recall_stands_anywhere_before():
  made, places = make("fuzzy_recall"), []
  for read, answers, _ in drawn(made, 300, 0):
    pairs = pairs_of(whole(read, answers))
    first = next(at for key, _, at in pairs if key == pairs[-1][0])
    places.append(first[0])
  assert min(places) < 30 and max(places) > 100
  assert 50 < np.mean(places) < 78


def test_selective_copying_copies_the_tokens_in_their_order():
  made = make("selective_copying")
  assert made.symbols[-1] == "copy" and len(made.symbols) == 16
  gaps, tokens = collections.Counter(), collections.Counter()
  for group in (None, 0):
    for read, answers, counted in drawn(made, 100, group):
      end = read.index("copy")
      assert len(read) == 256 and len(read) - end == 17 and set(read[end + 1 :]) == {"_"}
      content = [token for token in read[:end] if token != "_"]
      assert [answer for answer, c in zip(answers, counted, strict=True) if c] == content
      assert counted == [False] * (end + 1) + [True] * 16
      assert read[end - 1] != "_"
      tokens.update(content)
      for number, gap in enumerate("".join(token[0] for token in read[:end]).split("t")[:-1]):
        gaps[number] += len(gap)
  assert evenly(tokens, 14) and evenly(gaps, 16)
  assert sum(gaps.values()) == 200 * 223


def test_compression_asks_for_the_whole_row_from_another_head():
  made = make("compression")
  assert made.HEAD == "reconstruction" and len(made.symbols) == 16
  tokens = collections.Counter()
  for read, answers, counted in itertools.chain(drawn(made, 100), drawn(made, 100, 0)):
    assert read == answers and all(counted) and len(read) == 32
    assert read[-1] == "_" and "_" not in read[:-1]
    tokens.update(read[:-1])
  assert evenly(tokens, 15)


def test_memorized_values_are_the_same_everywhere_and_no_two_keys_share_one():
  made, other = make("memorization"), make("memorization", facts_seed=1)
  facts, keys = {}, collections.Counter()
  for read, answers, counted in itertools.chain(drawn(made, 200), drawn(made, 200, 0)):
    assert read[1::2] == ["_"] * 16 and counted == [False, True] * 16
    for key, value in zip(read[::2], answers[1::2], strict=True):
      assert facts.setdefault(key, value) == value and value[0] == "v"
      keys[key] += 1
  assert len(made.symbols) == 256 and evenly(keys, 127)
  assert len(set(facts.values())) == len(facts) == 127
  again = {r[0]: a[1] for r, a, _ in drawn(other, 50)}
  assert sum(facts[key] == value for key, value in again.items()) < len(again) / 4


KNOWN = {
  "people": 6,
  "names": (3, 4),
  "attributes": (("born", 2, 3), ("city", 5)),
  "templates": 3,
}


def person_of(sequence):
  """(name, {attribute: values}, [signs]) of what is said of a person."""
  name = [token for token in sequence if token.startswith("name.")]
  facts, signs = collections.defaultdict(list), []
  for token in sequence[1 + len(name) :]:
    if "?" in token:
      signs.append(token)
    else:
      facts[token.split(".")[0]].append(token)
      assert token.startswith(signs[-1].split("?")[0])
  return tuple(name), {key: tuple(value) for key, value in facts.items()}, signs


def test_people_have_names_and_facts_of_their_own_told_in_any_order():
  made, people, orders, signs = make("knowledge", **KNOWN), {}, set(), set()
  for group in (None, 0, 1, 2):
    for read, answers, counted in drawn(made, 60, group):
      sequence = whole(read, answers)
      assert sequence[0] == "_" and len(read) == made.length == 7
      name, facts, told = person_of(sequence)
      assert [token.partition("=")[0] for token in name] == ["name.0", "name.1"]
      assert [len(facts[key]) for key in ("born", "city")] == [2, 1]
      assert people.setdefault(name, facts) == facts
      orders.add(tuple(sign.split("?")[0] for sign in told))
      signs.update(told)
      asked = [answer for answer, c in zip(answers, counted, strict=True) if c]
      expected = [list(answers), list(name), list(facts["born"]), list(facts["city"])]
      assert asked == expected[0 if group is None else 1 + group]
  assert len(people) == 6 and len(orders) == 2 and len(signs) == 6
  assert made.groups == ("name", "born", "city")
  assert len(made.symbols) == 1 + 7 + 2 * 3 + 5 + 5


def test_as_many_people_as_names_have_all_names():
  made = make("knowledge", people=12, names=(3, 4), attributes=(("city", 5),), templates=1)
  assert len({person_of(whole(r, a))[0] for r, a, _ in drawn(made, 200)}) == 12


def test_bits_follow_from_losses_as_in_the_papers_definition():
  """Definition 4.3 by hand: 4 people, 16 names, 8 lives."""
  made = make("knowledge", people=4, names=(4, 4), attributes=(("a", 2, 2), ("b", 2)), templates=1)
  nothing = {"name": math.log(4), "a": math.log(2), "b": math.log(2)}  # even guesses
  assert made.bits(nothing) == pytest.approx(0)
  # log 4 of a name remain, for nobody says who comes next: 4 * (4 - 2) + 4 * 3 bits.
  everything = {"name": math.log(4) / 2, "a": 0.0, "b": 0.0}
  assert made.bits(everything) == made.most_bits == pytest.approx(20)
  # Half of a, in both of its tokens; nothing of b: 4 * (4 - 2) + 4 * (3 - 1 - 1).
  assert made.bits({"name": math.log(4) / 2, "a": math.log(2) / 2, "b": math.log(2)}) == (
    pytest.approx(12)
  )


def test_a_life_of_the_published_size_has_47_6_bits():
  """Remark 4.4."""
  made = make("knowledge")
  bits = made.most_bits / 10_000 - math.log2(400 * 400 * 1000 / 10_000)
  assert bits == pytest.approx(47.6, abs=0.05)


def test_associative_recall_is_zoologys():
  """Its rule on each example, and by chi-squared its gaps: one after the other by a power law."""
  made = make("associative_recall", vocab_size=64, seq_len=32, pairs=4)
  gaps = np.zeros((2, 12), int)  # of the first key and of the second
  for group in (None, 0):
    for read, answers, counted in drawn(made, 1000, group):
      facts = dict(zip(read[:8:2], read[1:8:2], strict=True))
      assert len(facts) == len(set(facts.values())) == 4
      assert all(key[0] == "k" and facts[key][0] == "v" for key in facts)
      asked = {read[at]: at for at, c in enumerate(counted) if c}
      assert sum(counted) == 4 and set(asked) == set(facts)
      assert all(at >= 8 and at % 2 == 0 for at in asked.values())
      assert all(answers[at] == facts[key] for key, at in asked.items())
      for number, key in enumerate(list(facts)[:2]):
        gaps[number, (asked[key] - 8) // 2] += 1
  law = np.arange(1, 13) ** (0.01 - 1)
  law /= law.sum()
  second = law * ((law / (1 - law)).sum() - law / (1 - law))  # what the first left
  assert fits(gaps[0], law) and fits(gaps[1], second)


@pytest.mark.parametrize(("size", "count"), [(5, 2), (40, 3), (6, 6), (9, 1)])
def test_distinct_numbers_are_drawn_evenly(size, count):
  random, first, last = np.random.RandomState(0), collections.Counter(), collections.Counter()
  for _ in range(3000):
    found = tasks.distinct(random, size, count)
    assert len(set(found.tolist())) == count and set(found.tolist()) <= set(range(size))
    first[int(found[0])] += 1
    last[int(found[-1])] += 1
  assert evenly(first, size) and evenly(last, size)


@pytest.mark.parametrize(
  ("name", "options", "said"),
  [
    ("in_context_recall", {"seq_len": 7}, "even, found 7"),
    ("in_context_recall", {"vocab_size": 4, "noise_size": 3}, "vocab_size of 5"),
    ("in_context_recall", {"noise": 0.5}, "noise_size"),
    ("noisy_recall", {"noise": 1.0}, "below 1"),
    ("fuzzy_recall", {"seq_len": 17}, "18 or more"),
    ("fuzzy_recall", {"vocab_size": 6}, "found 2 and 3"),
    ("selective_copying", {"seq_len": 33}, "34 or more"),
    ("selective_copying", {"vocab_size": 2}, "vocab_size must be at least 3"),
    ("compression", {"seq_len": 1}, "seq_len must be at least 2"),
    ("memorization", {"seq_len": 9}, "even, found 9"),
    ("memorization", {"facts_seed": -1}, "facts_seed"),
    ("knowledge", {"people": 99, "names": (7, 14)}, "99 people"),
    ("knowledge", {"attributes": (("city",),)}, "found city"),
    ("knowledge", {"attributes": ((5, 3),)}, "found 5"),
    ("knowledge", {"attributes": (("city", 2), ("city", 3))}, "names of their own"),
    ("knowledge", {"attributes": ()}, "names of their own"),
  ],
)
def test_sizes_that_make_no_sense_are_refused(name, options, said):
  with pytest.raises(UserError, match=said):
    make(name, **options)


@pytest.mark.parametrize("name", TASKS)
def test_each_task_of_the_experiment_has_a_model_that_answers_it(name):
  config = config_schema.load(f"{EXPERIMENT}:{name}", [])
  assert config.objective_options.task.name == name
  text = inputs.load_text(config)
  tokenizer = inputs.load_tokenizer(config, config_schema.EXPERIMENTS, text)
  inputs.model(config, tokenizer)
  assert len(text.train[0][0].records) in (config.objective_options.training_set, 4096)
