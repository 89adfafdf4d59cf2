"""The tree as a whole: where imports point, how long files are, who may name an architecture."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "llm_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))
# Lower layers first: a module imports from its own row or from those above it in this list.
ORDER = (
  ("errors", "host", "writing"),
  ("ops",),
  ("contract", "modules", "state_space"),
  ("layers",),
  ("models", "config"),
  ("objectives", "objective", "data"),
  ("training", "inference", "evaluation", "analysis"),
  ("sweeps",),
  ("interop",),
  ("exchange", "tokenizing"),
  ("command_line",),
)
RANK = {name: rank for rank, row in enumerate(ORDER) for name in row}
SHARED = ("models", "training", "inference", "objectives", "sweeps")
FAMILIES = (
  "gpt|llama|mistral|mixtral|qwen|gemma|bloom|bert|roberta|distilbert|t5|bart|marian|rwkv|mamba|"
  "s4d?|s5|griffin|jamba|neox|pythia|lstm|gru|elman|rglru|hyena"
)


def part_of(module: str) -> str:
  return module.split(".")[1] if "." in module else ""


def imports_of(path: Path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llm_jax"):
      deeper = node.module == "llm_jax"
      yield from (f"llm_jax.{alias.name}" for alias in node.names) if deeper else (node.module,)
    elif isinstance(node, ast.Import):
      yield from (a.name for a in node.names if a.name.startswith("llm_jax"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
  relative = path.relative_to(PACKAGE)
  if str(relative) == "__init__.py":
    return  # the public API
  own = RANK[relative.parts[0].removesuffix(".py")]
  for module in imports_of(path):
    if part_of(module):  # the package itself: where it lies
      assert RANK[part_of(module)] <= own, f"{relative} imports {module}"


@pytest.mark.parametrize("folder", SHARED)
def test_shared_code_names_no_architecture(folder):
  name = re.compile(rf"(?<![A-Za-z])({FAMILIES})(?![a-z])", re.IGNORECASE)
  for path in sorted((PACKAGE / folder).rglob("*.py")):
    for number, line in enumerate(path.read_text().splitlines(), 1):
      assert not name.search(line), f"{path.name}:{number}: {line.strip()}"


def test_every_file_says_what_it_is_and_is_shorter_than_400_lines():
  for path in (*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")):
    text = path.read_text()
    assert len(text.splitlines()) < 400, path
    assert text == "" or ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
