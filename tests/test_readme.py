"""The README is true: it names every file, its Python runs, and its commands name what exists."""

import pathlib
import re
import shlex

from llm_jax import command_line

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def rows():
  """(folder, file) of every line of the tree."""
  folder, found = "", set()
  for line in README.splitlines():
    if heading := re.match(r"\*\*`([\w/]+)/`\*\*", line):
      folder = heading[1]
    elif folder and (row := re.match(r"\| `([\w.]+)` \|", line)):
      found.add((folder, row[1]))
  return found


def test_the_tree_has_a_line_for_every_file_and_no_other():
  files = {
    (str(path.parent.relative_to(ROOT)), path.name)
    for folder in ("llm_jax", "experiments", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".j2", ".json")
    and (path.name != "__init__.py" or path.parent.name == "llm_jax")
  }
  assert rows() == files


def test_the_python_of_the_readme_runs():
  [code] = re.findall(r"```python\n(.*?)```", README, re.S)
  names = {}
  exec(compile(code, "README.md", "exec"), names)
  assert [len(row) for row in names["rows"]] == [32, 32]
  assert names["output"].logits.shape == (1, 3, 1000)


def test_every_command_parses_and_names_files_that_exist():
  commands = re.findall(r"`(python launch\.py [^`]*)`", README)
  assert len(commands) >= 5
  for command in commands:
    argv = shlex.split(command)[2:]
    if argv and "--help" not in argv:
      command_line._parse(argv)
    for path in re.findall(r"experiments/[\w/]+\.py", command):
      assert (ROOT / path).exists(), path
