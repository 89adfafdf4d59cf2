"""What a synthetic task is: the contract of the files in `data/tasks`, and what they share.

A file holds one public frozen dataclass, the CamelCase of the file's name. Its fields are its
options, each with a default. Beside them it has:

  METRIC       what its paper reports: "accuracy" of the counted tokens, "exact", the share of
               examples in which all of them are right, or "loss", in nats for each
  symbols      (property) the name of each id; id 0 is BLANK, which also fills rows
  groups       (property) names of the kinds of held-out examples, by which the metric is told too:
               "length_64", "pairs_8"; at least one
  length       (property) tokens of the longest training example
  held_out_length  (property) tokens of the longest held-out one
  draw(random, group) -> (tokens, targets, counted)
               one example as three sequences of one length, at most `length` or `held_out_length`:
               ids read, ids to predict at the same places, and which places count (0 or 1); group
               is None for a training example, else the number of the held-out one's kind

and, where the answer is not read off each token in turn:

  HEAD         the head that answers; "language_model" if there is none

and, where it can tell what a model knows:

  most_bits    (property) bits of all there is to know
  bits(nats)   bits that a model knows, of its mean nats a counted token in each group

What an example is depends on the options and on what was drawn from `random` alone. Sizes that
make no sense are refused with a UserError when the task is made. Most tasks are about strings of
many lengths: what those share is in `data.strings`.
"""

import dataclasses
import importlib
import pkgutil
from typing import Any

import numpy as np

import llm_jax.data.tasks
from llm_jax.data.special_tokens import END
from llm_jax.errors import UserError, unknown

BLANK = END[0]  # id 0: fills rows, and asks where a task needs a token that says nothing


def names() -> list[str]:
  """Every task on disk."""
  return sorted(module.name for module in pkgutil.iter_modules(llm_jax.data.tasks.__path__))


def options(name: str, **chosen) -> dict[str, Any]:
  """`config.objective_options.task`: the name and all of the task's options."""
  fields = {field.name: field.default for field in dataclasses.fields(_class(name))}
  for key in chosen:
    if key not in fields:
      raise unknown(f"option of task {name!r}", key, fields)
  return {"name": name, **fields, **chosen}


def make(chosen):
  """The task of `config.objective_options.task`.

  Raises:
    UserError: an unknown task or option, or what the task itself refuses.
  """
  chosen = dict(chosen)
  name = chosen.pop("name", "")
  return _class(name)(**{k: v for k, v in options(name, **chosen).items() if k != "name"})


def _class(name: str):
  if name not in names():
    raise unknown("task", name, names())
  module = importlib.import_module(f"llm_jax.data.tasks.{name}")
  return getattr(module, "".join(part.capitalize() for part in name.split("_")))


def at_least(task, **least: int) -> None:
  """Refuses options below their least values."""
  for name, lowest in least.items():
    found = getattr(task, name)
    if found < lowest:
      raise UserError(f"The task's {name} must be at least {lowest}, found {found}.")


def distinct(random: np.random.RandomState, size: int, count: int) -> np.ndarray:
  """(count,) different numbers below `size`, in an order that is drawn too.

  `random.choice` without replacement shuffles all of them: 56 us for 4 of 4,095, and 8 here.
  """
  if 2 * count > size:
    return random.permutation(size)[:count]
  found = {}  # in the order of their first appearance
  while len(found) < count:
    found.update(dict.fromkeys(random.randint(size, size=count - len(found)).tolist()))
  return np.fromiter(found, np.int64)


def next_tokens(sequence_S, counted_S) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """An example in which each token is predicted from those before it.

  Args:
    sequence_S: all ids.
    counted_S: 1 at those whose prediction counts.
  """
  sequence_S = np.asarray(sequence_S, np.int32)
  return sequence_S[:-1], sequence_S[1:], np.asarray(counted_S, np.float32)[1:]


def answered(
  question_Q, answer_A, ask: int, room: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """An example whose answer is read off tokens behind the question that say nothing.

  Args:
    question_Q: ids.
    answer_A: ids, predicted at `ask` tokens: none of them is shown.
    ask: the id of that token.
    room: how many there are; those behind the answer do not count. None: as many as it needs.
  """
  begin, end = len(question_Q), len(question_Q) + len(answer_A)
  tokens = np.concatenate([question_Q, np.full(room or len(answer_A), ask)]).astype(np.int32)
  targets, counted = np.zeros(len(tokens), np.int32), np.zeros(len(tokens), np.float32)
  targets[begin:end], counted[begin:end] = answer_A, 1.0
  return tokens, targets, counted


def check_lengths(
  longest: int, held_out_lengths: tuple[int, ...], least: int = 1, step: int = 1
) -> None:
  """Refuses a task of strings of lengths least, least + step, .. that has none to draw or hold out.

  Raises:
    UserError: `longest` below `least`; no held-out length, or one that no string has.
  """
  possible = all(n >= least and (n - least) % step == 0 for n in held_out_lengths)
  if longest < least or not held_out_lengths or not possible:
    steps = "" if step == 1 else f" in steps of {step}"
    raise UserError(
      f"The task needs a longest training string of {least} or more, and held_out_lengths of "
      f"{least} or more{steps}; found {longest} and {held_out_lengths}."
    )
