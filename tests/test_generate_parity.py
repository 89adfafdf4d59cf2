"""Greedy and beam give the very tokens of transformers' `generate`: committed ones, and live ones.

Twenty ragged prompts of five families, four at a time, under every setting of
`tests/parity/decoding.py`.
"""

import functools
import importlib.util

import numpy as np
import pytest

from llm_jax.inference.generate import generate
from llm_jax.interop.pretrained import load_pretrained
from tests.parity import decoding, harness

LIVE = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


@functools.cache
def loaded(family):
  return load_pretrained(harness.folder_of(decoding.case_of(family)))


@pytest.mark.parametrize("family", decoding.FAMILIES)
@pytest.mark.parametrize("name", decoding.SETTINGS)
def test_tokens_are_those_committed(family, name):
  case, (expected, ends) = decoding.case_of(family), decoding.golden()[f"{family}/{name}"]
  options = decoding.settings_of(case, name)
  found = []
  for batch in decoding.batches(case):
    found += generate(*loaded(family), batch, eos_token_id=ends, **options)
  assert found == expected


def test_the_committed_rows_differ_and_some_end_early():
  for name, (rows, ends) in decoding.golden().items():
    settings = decoding.SETTINGS[name.split("/")[1]]
    assert len(rows) == decoding.PROMPTS * settings.get("num_return_sequences", 1)
    assert len(set(map(tuple, rows))) >= 7, name
    assert all(not np.isin(row[:-1], ends).any() for row in rows)
    long_ones = settings.get("length_penalty", 0) > 1
    assert long_ones or any(len(row) < decoding.NEW for row in rows), name


@pytest.mark.skipif(not LIVE, reason="torch and transformers are not installed")
@pytest.mark.parametrize("family", decoding.FAMILIES)
def test_the_reference_still_makes_the_committed_tokens(family):
  from tests.parity import reference_decoding as reference

  case = decoding.case_of(family)
  model, batches = reference.open_model(case), decoding.batches(case)[:1]
  for name in decoding.SETTINGS:
    expected, ends = decoding.golden()[f"{family}/{name}"]
    found = reference.decoded(model, batches, decoding.settings_of(case, name), ends)
    assert found == expected[: len(found)], name


@pytest.mark.skipif(not LIVE, reason="torch and transformers are not installed")
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_beam_with_stop_strings_gives_the_references_tokens(family):
  from tests.parity import reference_decoding as reference

  case, stops = decoding.case_of(family), ["fab", "cec", "ddb"]
  options = decoding.settings_of(case, "beam-rules") | {"stop_strings": stops}
  ours, theirs = reference.texts(case.vocab)
  batch, ends = decoding.batches(case)[0], decoding.golden()[f"{family}/beam"][1]
  found = generate(
    *loaded(family), batch, tokenizer=ours, eos_token_id=ends, return_log_probs=True, **options
  )
  expected = reference.decoded(reference.open_model(case), [batch], options, ends, theirs)
  for row, ids in zip(found, expected, strict=True):
    assert ids in (row.ids, [*row.ids, ends[0]])  # which fills up what is shorter than others
  assert 0 < sum(row.text.endswith(tuple(stops)) for row in found) < len(found)
