"""Solves for the width that gives a model a wanted size, all else fixed."""

import copy
import functools
import math
from collections.abc import Callable

from llm_jax.analysis.counts import parameters
from llm_jax.errors import UserError

_GRAIN = 4  # widths are its multiples: odd ones fit no vector register
_LONGEST_GAP = 512  # between two widths that a config allows: twice a plausible number of heads


def match_width(
  model_config,
  target: float,
  tolerance: float = 0.05,
  size: Callable[..., float] = parameters,
  unit: str = "parameters",
):
  """A copy of the config whose d_model brings its size nearest the target.

  Sizes that are given stay; those that follow the width (0: d_ff, head_dim and the like) follow.
  Widths are multiples of 4; those that the config refuses (heads that do not divide them, odd
  rotary heads) are passed over.

  Args:
    model_config: the `model` part of a config; its own d_model is only where the search starts.
    target: the size there should be.
    tolerance: largest relative difference allowed.
    size: of a config; it must grow with the width.
    unit: what it counts, for the message.

  Raises:
    UserError: no width comes near enough; the message has the nearest ones and their counts.
  """

  @functools.cache
  def count(width: int) -> float:
    return size(_with_width(model_config, width))

  neighbours = _neighbours(count, target, model_config["d_model"])
  best = min(neighbours, key=lambda width: abs(count(width) - target))
  if abs(count(best) - target) > tolerance * target:
    found = " and ".join(f"{width} ({count(width):,.0f} {unit})" for width in neighbours)
    raise UserError(
      f"No model.d_model gives {target:,.0f} {unit} within {tolerance:.0%}: the "
      f"nearest that this config allows: {found}. Change the target, the depth, or a size that "
      "does not follow the width."
    )
  return _with_width(model_config, best)


def _neighbours(count: Callable, target: float, start: int) -> list[int]:
  """The widths next to each other that have the target between them; the smallest one alone if
  even that has more.

  Most sizes grow about as the square of the width, so the line through both ends of a bracket in
  (width, sqrt(count)) nearly hits the target, and a few counts are enough.
  """
  low = _allowed(count, 1)
  if count(low) >= target:
    return [low]
  high = _allowed(count, max(2 * low, start))
  while count(high) < target:
    low, high = high, _allowed(count, 2 * high)
  while True:
    root_low, root, root_high = (math.sqrt(n) for n in (count(low), target, count(high)))
    guess = low + (high - low) * (root - root_low) / (root_high - root_low)
    left = _allowed(count, int(guess), step=-1)
    right = _allowed(count, left + 1)
    if count(left) > target:
      high = left
    elif count(right) < target:
      low = right
    else:
      return [left, right]


def _allowed(count: Callable, width: int, step: int = 1) -> int:
  """The nearest width from `width` on, upwards or downwards, that the config does not refuse."""
  for candidate in range(width, width + step * _LONGEST_GAP, step):
    if candidate % _GRAIN:
      continue
    try:
      count(candidate)
      return candidate
    except UserError as error:
      refusal = error
  raise UserError(f"No model.d_model near {width} is allowed. Of the last one tried: {refusal}")


def _with_width(model_config, width: int):
  changed = copy.deepcopy(model_config)
  changed["d_model"] = width
  return changed
