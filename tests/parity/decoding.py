"""Decoding as transformers does it: `python -m tests.parity.decoding` writes its golden file.

Ragged prompts, four at a time: padded at the left, sources at the right.
"""

import importlib

import numpy as np

from tests.parity import harness

GOLDEN = harness.GOLDEN / "decoding.npz"
BATCH, PROMPTS, NEW = 4, 20, 16
PAD = 0  # never made where rules look back: what is padding for the reference is none for us
FAMILIES = ("gpt2", "llama", "t5", "bart", "mamba")
RULES = {
  "repetition_penalty": 1.3,
  "no_repeat_ngram_size": 2,
  "suppress_tokens": [PAD, 11],
  "min_new_tokens": 3,
  "forced_eos_token_id": 5,
  "logit_bias": {7: 1.5, 9: -2.0},
}
BEAM = {"method": "beam", "num_beams": 4}
SETTINGS = {
  "greedy": {},
  "greedy-rules": RULES,
  "beam": BEAM,
  "beam-first-come": BEAM | {"early_stopping": True, "num_return_sequences": 3},
  "beam-never": BEAM | {"early_stopping": "never", "num_return_sequences": 4},
  "beam-long": BEAM | {"length_penalty": 2.0},
  "beam-never-short": BEAM | {"early_stopping": "never", "length_penalty": -1.0},
  "beam-short": BEAM | {"length_penalty": 0.0, "num_return_sequences": 4},
  "beam-rules": BEAM | RULES | {"length_penalty": 0.7, "num_return_sequences": 2},
}


def case_of(family: str) -> harness.Case:
  """The first case of a family."""
  return importlib.import_module(f"tests.parity.{family}").CASES[0]


def settings_of(case: harness.Case, name: str) -> dict:
  """Options of `generate`, without the end tokens."""
  first = {"forced_bos_token_id": 8}
  forced = first if case.kind == "encoder_decoder" and "rules" in name else {}
  return {"max_new_tokens": NEW, **SETTINGS[name], **forced}


def prompts(case: harness.Case) -> list[list[int]]:
  """Ragged prompts or sources."""
  rng = np.random.RandomState(len(case.name))
  lengths = rng.randint(2, 13, PROMPTS)
  return [rng.randint(4, case.vocab, length).tolist() for length in lengths]


def batches(case: harness.Case) -> list[list[list[int]]]:
  """The prompts, four at a time."""
  rows = prompts(case)
  return [rows[start : start + BATCH] for start in range(0, PROMPTS, BATCH)]


def golden() -> dict:
  """{"family/setting": (rows of new ids, end tokens)}."""
  with np.load(GOLDEN) as file:
    arrays = dict(file)
  return {
    name: ([row[row >= 0].tolist() for row in rows], arrays[f"{name.split('/')[0]}/ends"].tolist())
    for name, rows in arrays.items()
    if not name.endswith("/ends")
  }


def frequent(rows: list[list[int]]) -> list[int]:
  """Two tokens that end some rows and not all: seen in about a third of the rows each."""
  counts = np.bincount([token for row in rows for token in set(row)])
  counts[:4] = 0
  return sorted(int(token) for token in np.argsort(np.abs(counts - len(rows) / 3))[:2])


def main() -> None:
  from tests.parity import reference_decoding as reference

  arrays = {}
  for family in FAMILIES:
    case = case_of(family)
    model = reference.open_model(case)
    free = reference.decoded(model, batches(case), settings_of(case, "greedy"), [])
    arrays[f"{family}/ends"] = ends = frequent(free)
    for name in SETTINGS:
      rows = reference.decoded(model, batches(case), settings_of(case, name), ends)
      lengths = np.bincount([len(row) for row in rows], minlength=NEW + 1)
      print(family, name, ends, "lengths", lengths.tolist(), flush=True)
      table = np.full((len(rows), NEW), -1, np.int16)
      for made, row in zip(table, rows, strict=True):
        made[: len(row)] = row
      arrays[f"{family}/{name}"] = table
  np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
  main()
