"""Which form each op takes: ops note it while they are traced, a run writes it to its log."""

import contextlib
import contextvars
from collections.abc import Iterator

_recorded: contextvars.ContextVar[set | None] = contextvars.ContextVar("recorded", default=None)


def note(op: str, form: str) -> str:
  """Records that an op was traced in a form; returns the form."""
  forms = _recorded.get()
  if forms is not None:
    forms.add(f"{op}: {form}")
  return form


@contextlib.contextmanager
def recording() -> Iterator[set[str]]:
  """The forms that are noted inside the block, as "op: form"."""
  forms: set[str] = set()
  token = _recorded.set(forms)
  try:
    yield forms
  finally:
    _recorded.reset(token)
