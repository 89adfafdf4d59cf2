"""The corpus that every Python carries: the language reference and the library's docstrings.

About 2.1 MB of English technical text on Python 3.11. A document is one topic of
`pydoc_data.topics`, or docstrings of one module in source order, each under its name.
"""

import ast
import hashlib
import json
import logging
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from llm_jax.data import cache

logger = logging.getLogger(__name__)

RECIPE = 3  # to be raised with any change of what is collected: older caches are then not read

CUT_AFTER = 4000  # characters
REPEATABLE = 60  # characters: headings and one-line examples may occur in several topics

# Installed packages are not the standard library; tests and the two Tk demonstrations carry
# fixtures rather than prose. Distributions also leave test folders out as they like.
SKIPPED = {
  "__phello__",
  "__pycache__",
  "dist-packages",
  "idle_test",
  "idlelib",
  "lib-dynload",
  "lib2to3",
  "pydoc_data",
  "site-packages",
  "test",
  "tests",
  "turtledemo",
}


def documents() -> list[str]:
  """All documents, topics first, both parts in sorted order; the same list on one Python.

  The parse of 600 source files takes seconds, so the result is kept in the cache folder under a
  key of the Python version and of each file's path, size and time.
  """
  root = Path(sysconfig.get_path("stdlib"))
  sources = list(_sources(root))
  path = cache.folder() / f"embedded-{_key(root, sources)}.json"
  try:
    kept = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(kept, list) and kept and all(isinstance(text, str) for text in kept):
      return kept
  except (OSError, ValueError):
    pass  # not there, or damaged: made anew below
  found = _topics() + _modules(root, sources)
  cache.keep(path, json.dumps(found, ensure_ascii=False))
  return found


def _key(root: Path, sources: list[Path]) -> str:
  facts = [RECIPE, sys.version]
  for path in sources:
    status = path.stat()
    facts.append((str(path.relative_to(root)), status.st_size, status.st_mtime_ns))
  return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _sources(folder: Path) -> Iterator[Path]:
  for path in sorted(folder.iterdir()):
    if path.is_dir():
      if path.name not in SKIPPED and not path.name.startswith("config-"):
        yield from _sources(path)
    elif path.suffix == ".py":
      yield path


def _topics() -> list[str]:
  try:
    from pydoc_data.topics import topics
  except ImportError:
    logger.warning("this Python carries no pydoc_data: the corpus is its docstrings alone")
    return []
  # Long topics contain short ones whole, and a held-out one must not stand in a training one: a
  # paragraph of an earlier topic is left out, and a topic with no other paragraph.
  seen, found = set(), []
  for name in sorted(topics):
    paragraphs = topics[name].strip().split("\n\n")
    own = [text for text in paragraphs if len(text) < REPEATABLE or text not in seen]
    seen.update(paragraphs)
    if any(len(text) >= REPEATABLE for text in own):
      found.append("\n\n".join(own) + "\n")
  return found


def _modules(root: Path, sources: list[Path]) -> list[str]:
  """All docstrings in documents; one that stood in an earlier place is not repeated."""
  seen, found = set(), []
  for path in sources:
    module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    parts, owner = [], ""
    for name, text in _docstrings(path, module):
      if text in seen:
        continue
      seen.add(text)
      # A long module is cut between its definitions, never inside a class, so that a twentieth
      # of the documents is a fair sample of the whole.
      if name.split(".")[0] != owner and sum(map(len, parts)) > CUT_AFTER:
        found.append("\n".join(parts))
        parts = []
      owner = name.split(".")[0]
      parts.append(f"{name}\n\n{text}\n")
    if parts:
      found.append("\n".join(parts))
  return found


def _docstrings(path: Path, module: str) -> Iterator[tuple[str, str]]:
  """(name, docstring) of the module and, by dotted path in it, all it defines, in source order."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # old files hold escapes that newer parsers warn about
      tree = ast.parse(path.read_bytes())
  except (OSError, SyntaxError, ValueError) as error:
    logger.info("skipped %s: %s", path, error)
    return
  for name, text in _walk(tree, ""):
    yield name or module, text


def _walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
  if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
    text = (ast.get_docstring(node) or "").strip()
    if text and _is_text(text):
      yield name, text
  for child in ast.iter_child_nodes(node):
    if isinstance(child, ast.stmt):
      own = getattr(child, "name", "")  # Python 3.12: that of a type alias is a node
      yield from _walk(child, ".".join(filter(None, (name, own if isinstance(own, str) else ""))))
    elif isinstance(child, ast.ExceptHandler):
      yield from _walk(child, name)


def _is_text(text: str) -> bool:
  """False where an escape makes what no file of text holds: a lone surrogate or a NUL."""
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    return False
  return "\0" not in text
