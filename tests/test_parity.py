"""Every published family on disk: our numbers against committed ones, and the reference's own.

The latter where torch and transformers are installed. A family is a `tests/parity/<family>.py` with
CASES; what a case is, `tests/parity/harness.py` says.
"""

import importlib.util
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from llm_jax.interop import families
from llm_jax.interop.pretrained import load_pretrained, save_pretrained
from tests.parity import harness

FAMILIES = harness.families()
CASES = [pytest.param(case, id=case.name) for family in FAMILIES.values() for case in family.CASES]
LIVE = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
live = pytest.mark.skipif(not LIVE, reason="torch and transformers are not installed")


def greedy():
  """The cases that decode; those after the first of a family are slow."""
  for family in FAMILIES.values():
    for index, case in enumerate(case for case in family.CASES if case.greedy):
      yield pytest.param(case, id=case.name, marks=[pytest.mark.slow] * (index > 0))


def check(case, found, expected, aliases):
  outputs = harness.output_differences(case, found, expected)
  assert {k: v for k, v in outputs.items() if not v <= harness.LOGITS} == {}
  gradients = harness.gradient_differences(found, expected, aliases)
  assert {k: v for k, v in gradients.items() if not v <= harness.GRADIENT} == {}


def test_every_family_has_two_cases_of_different_names():
  assert min(len(family.CASES) for family in FAMILIES.values()) >= 2
  names = [case.name for family in FAMILIES.values() for case in family.CASES]
  assert len(names) == len(set(names))


def test_the_readme_has_a_row_for_every_family():
  readme = (harness.GOLDEN.parent.parent / "README.md").read_text()
  missing = [name for name, m in FAMILIES.items() if f"\n| {harness.title(m)} |" not in readme]
  assert missing == []


def test_golden_files_take_less_than_3_megabytes():
  assert sum(path.stat().st_size for path in harness.GOLDEN.glob("*")) < 3e6


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_committed(case):
  golden = harness.Golden(case)
  check(case, harness.ours(case), golden.numbers, golden.about["aliases"])


@pytest.mark.parametrize("case", list(greedy()))
def test_greedy_tokens_are_those_committed(case):
  assert harness.greedy_ids(case) == harness.Golden(case).numbers.ids


@pytest.mark.parametrize("case", CASES)
def test_load_save_load_is_bit_for_bit(case, tmp_path):
  model, params = load_pretrained(harness.folder_of(case))
  save_pretrained(tmp_path, model, params)
  again, params_again = load_pretrained(tmp_path)
  assert families.resolved(again.spec) == families.resolved(model.spec)
  assert jax.tree.structure(params) == jax.tree.structure(params_again)
  jax.tree.map(np.testing.assert_array_equal, params, params_again)
  before = load_file(harness.folder_of(case) / "model.safetensors")
  after = load_file(tmp_path / "model.safetensors")
  for name in before.keys() & after.keys():
    np.testing.assert_array_equal(before[name], after[name], strict=True, err_msg=name)


@live
@pytest.mark.parametrize("case", CASES)
def test_outputs_gradients_and_committed_tokens_are_the_references(case):
  from tests.parity import reference

  model, info = reference.open_folder(harness.folder_of(case), case.model)
  assert info == {}
  aliases = reference.aliases(model, harness.folder_of(case))
  numbers = reference.numbers(case, model)
  check(case, harness.ours(case), numbers, aliases)
  assert numbers.ids == harness.Golden(case).numbers.ids


@live
@pytest.mark.parametrize("case", CASES)
def test_the_reference_opens_what_we_write(case, tmp_path):
  from tests.parity import reference

  save_pretrained(tmp_path, *load_pretrained(harness.folder_of(case)))
  [name] = json.loads((tmp_path / "config.json").read_text())["architectures"]
  model, info = reference.open_folder(tmp_path, name)
  assert info == {}
  found = {name: value.detach() for name, value in reference.outputs(case, model).items()}
  expected = harness.ours(case).outputs
  assert found.keys() == expected.keys()
  for name, values in found.items():
    difference = harness.masked(case, values) - harness.masked(case, expected[name])
    assert np.abs(difference).max() <= harness.LOGITS, name
