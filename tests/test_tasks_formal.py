"""Tasks on strings: each answer against one found another way, lengths, balance, refusals."""

import collections
import functools
import math
import operator
import re
import statistics

import numpy as np
import pytest

from llm_jax import config as config_schema
from llm_jax.data import strings
from llm_jax.data import task as tasks
from llm_jax.errors import UserError

OF_STRINGS = [
  name for name in tasks.names() if isinstance(tasks.make(tasks.options(name)), strings.Strings)
]


def seeded(*seed):
  return np.random.RandomState(np.random.PCG64(list(seed)))


def made(name, **chosen):
  return tasks.make(tasks.options(name, **chosen))


def drawn(task, count, group=None):
  """Examples as names: tokens, the targets that count, and where they are."""
  random, names = seeded(count, 0 if group is None else group + 1), np.array(task.symbols)
  for _ in range(count):
    tokens, targets, counted = task.draw(random, group)
    places = np.flatnonzero(counted)
    yield names[tokens].tolist(), names[targets][places].tolist(), places.tolist()


def of_lengths(name, count=60, **chosen):
  """Examples of the least length, of the next, of middling and of long ones."""
  least, step = made(name, **chosen).least, made(name, **chosen).step
  lengths = tuple(least + step * i for i in (0, 1, 2, 9, 30, 80))
  task = made(name, held_out_lengths=lengths, **chosen)
  for group, length in enumerate(lengths):
    for example in drawn(task, count, group):
      yield (length, *example)


def walked(string):
  circle = collections.deque(range(5))
  for step in string:
    circle.rotate({"left": 1, "stay": 0, "right": -1}[step])
  return [str(circle[0])]


def solved(string):
  left, value = "".join(string).split("=")
  worth = [(eval(left.replace("x", str(x))) - int(value)) % 5 for x in range(5)]
  assert worth.count(0) == 1
  return [str(worth.index(0))]


def manipulated(string):
  stack = "".join(string).split("p")[0]  # of pop and push
  for action in string[len(stack) :]:
    stack = stack[:-1] if action == "pop" else stack + action[-1]
  return [*reversed(stack), "end"]


def found_missing(string):
  [missing] = [bit for bit in "01" if re.fullmatch(r"(.+)\1", "".join(string).replace("_", bit))]
  return [missing]


def calculated(string):
  sign = "+" if "+" in string else "*"
  one, other = "".join(string).split(sign)
  assert "1" in one and "1" in other
  value = eval(f"{int(one[::-1], 2)} {sign} {int(other[::-1], 2)}")
  return [*reversed(f"{value:b}"), "end"]


def rooted(string):
  value, root = int("".join(string), 2), 0
  for place in reversed(range(len(string))):
    root += 2**place * ((root + 2**place) ** 2 <= value)
  return list(f"{root:0{math.ceil(len(string) / 2)}b}")


def listed(string):
  code = " ".join(string).replace("]", "]),").replace("[SM", "[SUM")
  code = re.sub(r"(\d)", r"\1,", re.sub(r"\[(M..|SUM)", r"\1([", code)).strip(",")
  functions = {"MIN": min, "MAX": max, "SUM": lambda v: sum(v) % 10}
  return [str(eval(code, functions | {"MED": lambda v: int(statistics.median(v))}))]


BY_ANOTHER_WAY = {
  "parity": lambda s: [("even", "odd")[functools.reduce(operator.xor, map(int, s))]],
  "even_pairs": lambda s: ["even" if s[0] == s[-1] else "odd"],
  "cycle_navigation": walked,
  "modular_arithmetic": lambda s: [str(eval("".join(s)) % 5)],
  "modular_arithmetic_brackets": lambda s: [str(eval("".join(s)) % 5)],
  "solve_equation": solved,
  "reverse_string": lambda s: list(reversed(s)),
  "duplicate_string": lambda s: [*s, *s],
  "odds_first": lambda s: [s[i] for i in sorted(range(len(s)), key=lambda i: (i % 2, i))],
  "bucket_sort": lambda s: [*"".join(bit * s.count(bit) for bit in "01234")],
  "stack_manipulation": manipulated,
  "missing_duplicate": found_missing,
  "binary_addition": calculated,
  "binary_multiplication": calculated,
  "compute_sqrt": rooted,
  "listops": listed,
}


@pytest.mark.parametrize("name", BY_ANOTHER_WAY)
def test_answers_are_those_found_another_way_behind_the_string(name):
  chosen = {"shortest": 4} if name == "listops" else {}
  distinct = set()
  for length, tokens, answers, places in of_lengths(name, **chosen):
    string, asked = tokens[:length], tokens[length:]
    assert set(asked) == {"?"} and "?" not in string
    assert answers == BY_ANOTHER_WAY[name](string), string
    assert places == list(range(length, length + len(answers)))
    distinct.add(tuple(string))
  assert len(distinct) > 150


def test_listops_has_as_many_arguments_and_levels_as_it_may():
  depths, arguments = set(), set()
  small = {"shortest": 40, "longest": 60, "held_out_lengths": (60,), "arguments": 5, "depth": 5}
  for tokens, *_ in drawn(made("listops", **small), 300):
    open_counts = []
    for token in tokens[:-1]:
      if token == "]":
        arguments.add(open_counts.pop())
      elif open_counts:
        open_counts[-1] += 1
      if token.startswith("["):
        open_counts.append(0)
        depths.add(len(open_counts))
  assert depths == {1, 2, 3, 4, 5} and arguments == {2, 3, 4, 5}


@pytest.mark.parametrize(
  ("group", "objects", "numbers", "size"),
  [("S3", 3, 1, 6), ("S5", 5, 1, 120), ("A5", 5, 1, 60), ("A4xZ5", 4, 5, 60), ("Z60", 0, 60, 60)],
)
def test_products_of_a_group_move_objects_one_after_the_other(group, objects, numbers, size):
  task = made("permutation_composition", group=group, held_out_lengths=(1, 200))
  assert len(task.symbols) == 1 + size
  for tokens, answers, places in (*drawn(task, 20, 0), *drawn(task, 20, 1)):
    assert places == list(range(len(tokens)))
    where, total = list(range(objects)), 0
    for element, answer in zip(tokens, answers, strict=True):
      if objects:
        where = [int(element[place]) for place in where]
        assert answer[:objects] == "".join(map(str, where))
      if numbers > 1:
        total = (total + int(element.split(".")[-1])) % numbers
        assert int(answer.split(".")[-1]) == total


def test_words_of_brackets_are_balanced_no_deeper_than_they_may_and_their_closing_ones_count():
  depths = collections.Counter()
  for length, tokens, answers, places in of_lengths("dyck", kinds=3, depth=4):
    word = tokens + answers[-1:]
    assert len(word) == length and places[-1] == length - 2
    assert answers == [bracket for bracket in word if bracket.startswith(")")]
    assert all(word[place + 1].startswith(")") for place in places)
    left = " ".join(word)
    for _ in range(length):  # take out the innermost pairs
      if not left.strip():
        break
      left = re.sub(r" +", " ", re.sub(r"\((\d+) +\)\1(?!\d)", " ", left))
    assert not left.strip(), word
    height = np.cumsum([1 if bracket.startswith("(") else -1 for bracket in word])
    depths[height.max()] += 1
  assert set(depths) == {1, 2, 3, 4}


def test_a_word_may_be_long():
  [(tokens, _, _)] = drawn(made("dyck", depth=1, held_out_lengths=(3000,)), 1, 0)
  assert "".join(token[0] for token in tokens) == "()" * 1499 + "("


def test_words_of_one_length_are_as_likely_as_where_brackets_open_and_close_by_halves():
  def words(left, height, chance, word=""):
    if left == 0:
      return {word: chance} if height == 0 else {}
    up = 0.0 if height == 2 else 0.5  # at depth 2 none opens; at 0 none closes, and a word may end
    down = 0.0 if height == 0 else 1.0 - up
    opened = words(left - 1, height + 1, chance * up, word + "(") if up else {}
    return opened | (words(left - 1, height - 1, chance * down, word + ")") if down else {})

  chances = words(6, 0, 1.0)
  task = made("dyck", kinds=1, depth=2, held_out_lengths=(6,))
  found = collections.Counter()
  for tokens, _, _ in drawn(task, 4000, 0):
    found["".join(token[0] for token in tokens) + ")"] += 1
  assert set(found) == set(chances) and len(chances) == 4
  for word, chance in chances.items():
    assert found[word] / 4000 == pytest.approx(chance / sum(chances.values()), abs=0.03)


@pytest.mark.parametrize("reverse", [False, True])
def test_sums_are_right_and_end_in_a_dollar(reverse):
  kinds = collections.Counter()
  for length, tokens, answers, places in of_lengths("addition", reverse=reverse):
    sequence = "".join(tokens) + answers[-1]
    one, other, total = re.fullmatch(r"(\d+)\+(\d+)=(\d+)\$", sequence).groups()
    assert len(one) == len(other) == length
    assert length == 1 or "0" not in (one[0], other[0])
    assert int(one) + int(other) == int(total[::-1] if reverse else total)
    assert "".join(answers) == total + "$"
    assert places == list(range(2 * length + 1, len(tokens)))
    kinds[len(total) - length] += 1
  assert set(kinds) == {0, 1}


@pytest.mark.parametrize("lookup", ["none", "prefix", "suffix"])
@pytest.mark.parametrize("letters", [2, 26])
def test_copies_are_what_stands_there(lookup, letters):
  for length, tokens, answers, places in of_lengths("copying", lookup=lookup, letters=letters):
    assert places == list(range(len(tokens) - len(answers), len(tokens)))
    sequence = tokens + answers[-1:]
    assert sequence[0] == "$"
    parts = " ".join(sequence[1:]).split(" | ")
    if lookup == "none":
      string, copy = parts
      assert copy == string == " ".join(answers)
    else:
      if lookup == "suffix":
        parts = [" ".join(parts[1].split()[:3]), parts[0], " ".join(parts[1].split()[3:])]
      key, string, copy = parts
      behind = f" {string} ".split(f" {key} ", 1)[1].split()
      assert copy.split() == behind[:3] == answers
    assert len(string.split()) == length


def test_induction_recalls_what_stood_behind_the_first_of_two():
  firsts = collections.defaultdict(set)
  for length, tokens, answers, places in of_lengths("induction"):
    assert len(tokens) == length and tokens[-1] == ">" and tokens.count(">") == 2
    first = tokens.index(">")
    assert answers == [tokens[first + 1]] and answers != [">"]
    assert places == [length - 1]
    firsts[length].add(first)
  assert firsts[3] == {0} and firsts[4] == {0, 1}


@pytest.mark.parametrize("name", OF_STRINGS)
def test_each_symbol_is_of_use(name):
  chosen = {"shortest": 40, "longest": 60} if name == "listops" else {}
  task = made(name, **chosen)
  found = set()
  for tokens, answers, _ in drawn(task, 120):
    found.update(tokens, answers)
  assert found == set(task.symbols[1:])


SMALL = {
  "listops": {"shortest": 6, "longest": 12},
  "induction": {"longest": 12},
}


@pytest.mark.parametrize("name", OF_STRINGS)
def test_training_strings_have_each_length_equally_often(name):
  chosen = SMALL.get(name, {"longest": made(name).least + 3 * made(name).step})
  task = made(name, **chosen)
  lengths = {"listops": range(6, 13), "induction": [12]}.get(
    name, range(task.least, task.longest + 1, task.step)
  )
  # Two lengths of string never give the same number of tokens, but where sums vary by one.
  sizes = [task.tokens(length) for length in lengths]
  found = collections.Counter()
  for tokens, *_ in drawn(task, 200 * len(lengths)):
    found[min(size for size in sizes if size >= len(tokens))] += 1
  assert set(found) == set(sizes)
  assert max(sizes) == task.length
  for size in sizes:
    assert found[size] == pytest.approx(200, abs=60)


# The share of the commonest counted answer; what is not asked for here is not one of few classes.
SHARES = {
  "parity": 0.55,
  "even_pairs": 0.55,
  "missing_duplicate": 0.55,
  "cycle_navigation": 0.27,
  "modular_arithmetic": 0.27,
  "modular_arithmetic_brackets": 0.33,
  "solve_equation": 0.25,
  "reverse_string": 0.55,
  "duplicate_string": 0.55,
  "odds_first": 0.55,
  "bucket_sort": 0.25,
  "stack_manipulation": 0.55,
  "binary_addition": 0.55,
  "binary_multiplication": 0.55,
  "compute_sqrt": 0.55,
  "listops": 0.25,
  "dyck": 0.2,
  "addition": 0.35,
  "copying": 0.1,
  "induction": 0.15,
  "permutation_composition": 0.1,
}


def test_every_task_on_strings_is_asked_for_its_balance():
  assert set(SHARES) == set(OF_STRINGS)


@pytest.mark.parametrize("name", SHARES)
def test_no_answer_is_right_most_of_the_time(name):
  chosen = {"longest": 60, "shortest": 20} if name == "listops" else {}
  found = collections.Counter()
  for _, answers, _ in drawn(made(name, **chosen), 800):
    found.update(answers)
  assert found.most_common(1)[0][1] / found.total() < SHARES[name]


@pytest.mark.parametrize(
  ("name", "chosen", "said"),
  [
    ("even_pairs", {"longest": 0}, "1 or more"),
    ("reverse_string", {"held_out_lengths": ()}, "1 or more"),
    ("modular_arithmetic", {"held_out_lengths": (40,)}, "1 or more in steps of 2"),
    ("missing_duplicate", {"held_out_lengths": (9,)}, "2 or more in steps of 2"),
    ("missing_duplicate", {"longest": 1}, "2 or more"),
    ("solve_equation", {"held_out_lengths": (2,)}, "3 or more"),
    ("binary_addition", {"longest": 2}, "3 or more"),
    ("binary_multiplication", {"held_out_lengths": (40, 1)}, "3 or more"),
    ("permutation_composition", {"group": "S6"}, "A4xZ5"),
    ("dyck", {"kinds": 0}, "kinds"),
    ("dyck", {"depth": 0}, "depth"),
    ("dyck", {"held_out_lengths": (7,)}, "in steps of 2"),
    ("addition", {"longest": 0}, "1 or more"),
    ("listops", {"shortest": 3}, "shortest"),
    ("listops", {"longest": 100}, "longest must be at least 500"),
    ("listops", {"arguments": 3}, "arguments"),
    ("listops", {"depth": 9}, "1534 tokens"),
    ("copying", {"lookup": "sufix"}, "suffix"),
    ("copying", {"letters": 1}, "letters"),
    ("copying", {"lookup": "prefix", "key": 30, "answer": 30}, "60 or more"),
    ("copying", {"answer": 0}, "answer"),
    ("induction", {"held_out_lengths": (2,)}, "3 or more"),
    ("induction", {"letters": 1}, "letters"),
  ],
)
def test_options_that_make_no_sense_are_refused(name, chosen, said):
  with pytest.raises(UserError, match=said):
    made(name, **chosen)


@pytest.mark.parametrize("name", OF_STRINGS)
def test_the_experiment_has_settings_for_each_task_with_strings_up_to_four_times_as_long(name):
  config = config_schema.load(f"{config_schema.EXPERIMENTS / 'synthetic.py'}:{name}", [])
  chosen = config.objective_options.task
  task = tasks.make(chosen)
  assert chosen.name == name and config.seq_len == task.length <= 80
  assert task.longest < max(task.held_out_lengths) <= 4 * task.longest + 3
  assert 1000 <= config.steps <= 3000
