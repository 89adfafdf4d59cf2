"""Parameters chosen by regexes of their paths: those that stay as they are, and whose rate differs.

A path is "embed/tokens" or "stack/0/1_mlp/in/kernel", and a regex has to match all of it. The
blocks of a stage are one array, so a path names a layer of all of them.
"""

import difflib
import re
from collections.abc import Collection
from typing import Any

from flax import traverse_util

from llm_jax.errors import UserError


def flat(tree: Any) -> dict[str, Any]:
  """{path: leaf} of nested dicts; tuples, such as logical axes, are leaves."""
  return traverse_util.flatten_dict(tree, sep="/")


def nested(leaves: dict[str, Any]) -> dict:
  """The nested dicts of {path: leaf}."""
  return traverse_util.unflatten_dict(leaves, sep="/")


def matching(key: str, pattern: str, paths: Collection[str]) -> set[str]:
  """The paths that a regex of `config.<key>` matches.

  Raises:
    UserError: it does not parse, or matches none; the nearest path is named.
  """
  try:
    found = {path for path in paths if re.fullmatch(pattern, path)}
  except (re.error, TypeError) as error:
    raise UserError(
      f"{key} takes regexes of parameter paths; found {pattern!r}: {error}."
    ) from error
  if not found:
    nearest = difflib.get_close_matches(pattern, sorted(paths), n=1, cutoff=0.0)[0]
    raise UserError(
      f"{key}: the regex {pattern!r} matches no parameter. It has to match a whole path; the "
      f"nearest is {nearest!r} (for all parameters below a name: 'stack/.*')."
    )
  return found


def frozen(patterns: Collection[str], params: Any) -> frozenset[str]:
  """The paths that `config.freeze` keeps as they are.

  Raises:
    UserError: a regex without a match, or nothing left to train.
  """
  paths = flat(params)
  found = frozenset().union(*(matching("freeze", pattern, paths) for pattern in patterns))
  if len(found) == len(paths):
    raise UserError(f"freeze={tuple(patterns)} leaves no parameter to train.")
  return found


def split(tree: Any, paths: Collection[str]) -> tuple[dict, dict]:
  """(what has none of these paths, what has one of them), each a tree with the others left out."""
  if not paths:
    return tree, {}
  leaves = flat(tree)
  return (
    nested({path: leaf for path, leaf in leaves.items() if path not in paths}),
    nested({path: leaf for path, leaf in leaves.items() if path in paths}),
  )


def merge(one: dict, other: dict) -> dict:
  """What `split` took apart."""
  return nested(flat(one) | flat(other)) if other else one


def factors(table: tuple, params: Any) -> dict[str, float]:
  """The factor of the learning rate of each path, by `config.optimizer.groups`.

  Args:
    table: ((regex, factor), ...); the first row that matches decides, else it is 1.
    params: the parameters that are trained.

  Raises:
    UserError: a row of another form, a negative factor, or a regex without a match.
  """
  key, paths = "optimizer.groups", flat(params)
  found = {}
  for row in table:
    if not (isinstance(row, tuple | list) and len(row) == 2 and _is_factor(row[1])):
      raise UserError(f"{key} must be ((regex, factor of 0 or more), ...); found the row {row!r}.")
    for path in matching(key, row[0], paths):
      found.setdefault(path, float(row[1]))
  return found


def _is_factor(value: Any) -> bool:
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return number and 0 <= value < float("inf")
