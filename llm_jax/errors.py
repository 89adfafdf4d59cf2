"""The mistakes a user can mend, told in one message."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
  """Something the user can mend. `launch.py` prints its text alone and exits with code 2.

  The text says what was expected, what was found and what to do.
  """


def unknown(kind: str, name: str, valid: Iterable[str]) -> UserError:
  """The error for a name that does not exist: it names the nearest valid one and all others.

  Args:
    kind: what the name should have been, such as "layer" or "config key".
    name: what was found.
    valid: every name that would have been accepted.
  """
  valid = sorted(valid)
  nearest = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
  hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
  names = f" Valid: {', '.join(valid)}." if valid else ""
  return UserError(f"Unknown {kind} {name!r}.{hint}{names}")
