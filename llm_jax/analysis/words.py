"""Numbers and lists in plain writing."""

import itertools
import math
from collections.abc import Sequence

COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
METRICS = {
  "bits_per_byte": "bits per byte",
  "accuracy": "accuracy",
  "exact": "share of exact answers",
  "loss": "nats per token",
}
SCALES = ((1e15, "quadrillion"), (1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def plain(value: float) -> str:
  """A number without an exponent: 8,192, 12.5, 0.0003."""
  if abs(value) >= 100:
    return f"{value:,.0f}"
  if value == 0:
    return "0"
  digits = max(0, 2 - math.floor(math.log10(abs(value))))
  text = f"{value:.{digits}f}"
  return text.rstrip("0").rstrip(".") if "." in text else text


def size(value: float) -> str:
  """Bytes with a decimal unit: 1.5 MB."""
  for unit in ("B", "kB", "MB", "GB"):
    if abs(value) < 999.5:
      return f"{plain(round(value, 1))} {unit}"
    value /= 1000
  return f"{plain(value)} TB"


def large(value: float) -> str:
  """A large count: 614,400, 2.05 million, 3.7 trillion."""
  for factor, word in SCALES:
    if value >= factor:
      return f"{plain(value / factor)} {word}"
  return plain(value)


def percent(share: float) -> str:
  """A share of a sample: 97 %; never 0 % or 100 % of what was seen once or missed once."""
  whole = round(100 * share)
  if share not in (0, 1) and whole in (0, 100):
    return "under 1 %" if whole == 0 else "over 99 %"
  return f"{whole} %"


def scaled(highest: float, of: str) -> tuple[float, str]:
  """(factor, axis label) under which the highest value of an axis has few digits."""
  for factor, word in (*SCALES, (1e3, "thousand")):
    if highest >= max(factor, 1e4):
      return factor, f"{word} {of}"
  return 1.0, of


def counted(count: int) -> str:
  """A count in words up to ten."""
  return COUNTS[count] if count < len(COUNTS) else f"{count:,}"


def plural(count: int, noun: str) -> str:
  """one seed, two seeds."""
  return f"{counted(count)} {noun}{'' if count == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
  """a, b and c."""
  items = list(items)
  return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def sentence(text: str) -> str:
  """The text with a capital letter at its start."""
  return text[:1].upper() + text[1:]


def log_ticks(low: float, high: float, most: int) -> list[float]:
  """Round numbers inside [low, high] for a logarithmic axis: at most `most`, none too close."""
  powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  closest = (high / low) ** (1 / (most + 1))
  whole = [10.0**power for power in powers if low <= 10.0**power <= high]
  inside = whole[:: max(1, -(-len(whole) // most))]
  for steps in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 6, 8)):
    finer = [step * 10.0**power for power in powers for step in steps]
    finer = [tick for tick in finer if low <= tick <= high]
    close = any(b < closest * a for a, b in itertools.pairwise(finer))
    if len(finer) <= most and not close and len(finer) > len(inside):
      inside = finer
  return inside or [low]
