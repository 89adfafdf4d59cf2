"""Writes the golden files of tests/golden: `python -m tests.parity.make_golden [family ...]`.

Needs requirements-parity.txt. Without names: every family of `tests/parity`. It prints how far our
own model is from the new numbers.
"""

import json
import pathlib
import sys
import tempfile

from llm_jax.errors import unknown
from tests.parity import harness, reference


def make(case: harness.Case) -> None:
  """One golden file."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    tensors, kept = reference.create(case, folder)
    model, info = reference.open_folder(folder, case.model)
    assert not info, f"{case.name}: the reference does not read its own file: {info}"
    about = {
      "reference": reference.VERSION,
      "config": json.loads((folder / "config.json").read_text()),
      "tensors": tensors,
      "aliases": reference.aliases(model, folder),
    }
    harness.write_golden(case, about, reference.numbers(case, model), kept)


def report(case: harness.Case) -> str:
  """Our differences from a golden file, largest first."""
  golden, found = harness.Golden(case), harness.ours(case)
  outputs = harness.output_differences(case, found, golden.numbers)
  gradients = harness.gradient_differences(found, golden.numbers, golden.about["aliases"])
  worst = sorted(gradients.items(), key=lambda item: -item[1])[:3]
  same = "equal" if harness.greedy_ids(case) == golden.numbers.ids else "DIFFERENT"
  distinct = [len(set(row)) for row in golden.numbers.ids]
  lines = [f"{name}: {value:.1e}" for name, value in [*outputs.items(), *worst]]
  return f"{case.name}: {', '.join(lines)}; greedy tokens {same}, {distinct} distinct"


def main(names: list[str]) -> None:
  families = harness.families()
  for name in names or families:
    if name not in families:
      raise unknown("family", name, families)
    for case in families[name].CASES:
      make(case)
      print(report(case), flush=True)


if __name__ == "__main__":
  main(sys.argv[1:])
