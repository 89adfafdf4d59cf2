"""Writes the README's table "Verified against": `python -m tests.parity_table`.

Needs requirements-parity.txt. The numbers are those that the tests compare with their tolerances.
"""

import importlib
import pathlib
import re

import transformers

from tests.parity import harness, reference

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- verified -->\n", "<!-- end of verified -->"
HEAD = ("family", "reference", "outputs", "gradients", "trained checkpoint tried")
_KINDS = ("decoder", "encoder", "encoder_decoder")


def measured(module) -> tuple:
  """(family, reference, largest differences of outputs and of gradients, trained checkpoint)."""
  outputs, gradients = [], []
  for case in module.CASES:
    folder = harness.folder_of(case)
    model, _ = reference.open_folder(folder, case.model)
    aliases, ours = reference.aliases(model, folder), harness.ours(case)
    theirs = reference.numbers(case, model)
    assert harness.greedy_ids(case) == theirs.ids, f"{case.name}: other greedy tokens"
    outputs += harness.output_differences(case, ours, theirs).values()
    gradients += harness.gradient_differences(ours, theirs, aliases).values()
  classes = ", ".join(dict.fromkeys(case.model for case in module.CASES))
  version = f"transformers {transformers.__version__}, {classes}"
  return (
    harness.title(module),
    version,
    max(outputs),
    max(gradients),
    getattr(module, "TRAINED", ""),
  )


def rows() -> list[tuple]:
  """One for each family: those of `tests/parity`, then those of `tests/test_parity_*.py`."""
  modules = harness.families().values()
  order = lambda module: (_KINDS.index(module.CASES[0].kind), harness.title(module))
  found = []
  for module in sorted(modules, key=order):
    found.append(measured(module))
    print(line(found[-1]), flush=True)
  for path in sorted(ROOT.glob("tests/test_parity_*.py")):
    if "def differences(" in path.read_text():
      found += importlib.import_module(f"tests.{path.stem}").differences()
  return found


def line(row) -> str:
  """A row of the table."""
  family, version, outputs, gradients, trained = row
  numbers = [re.sub("e-0?", "e-", f"{value:.1e}") for value in (outputs, gradients)]
  return _joined((family, version, *numbers, trained))


def _joined(cells) -> str:
  return f"| {' | '.join(cells)} |"


def main() -> None:
  table = "\n".join([_joined(HEAD), _joined(["---"] * len(HEAD)), *map(line, rows())])
  before, after = README.read_text().split(BEGIN)[0], README.read_text().split(END)[1]
  README.write_text(f"{before}{BEGIN}{table}\n{END}{after}")


if __name__ == "__main__":
  main()
