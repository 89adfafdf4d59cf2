"""GPT-1's and GPT-2's files as they were published: bare names, masks, tied copies, old fields."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_jax.errors import UserError
from llm_jax.interop.pretrained import load_pretrained
from tests.parity import gpt2, openai_gpt
from tests.parity.harness import folder_of

BOTH = pytest.mark.parametrize("case", [gpt2.CASES[0], openai_gpt.CASES[0]], ids=lambda c: c.name)


def folder(case, path, tensors=None, **fields):
  """A copy of a case's folder with other tensors or other fields of config.json."""
  config = json.loads((folder_of(case) / "config.json").read_text())
  (path / "config.json").write_text(json.dumps(config | fields))
  save_file(tensors or load_file(folder_of(case) / "model.safetensors"), path / "model.safetensors")
  return path


@BOTH
def test_files_without_the_prefix_and_with_masks_hold_the_same_parameters(case, tmp_path):
  _, expected = load_pretrained(folder_of(case))
  tensors = load_file(folder_of(case) / "model.safetensors")
  tensors = {name.removeprefix("transformer."): value for name, value in tensors.items()}
  tensors["h.1.attn.bias"] = np.ones((1, 1, 80, 80), np.float32)
  tensors["h.1.attn.masked_bias"] = np.float32([-1e4])
  old = {"n_ctx": 80, "n_special": 0, "predict_special_tokens": True}
  old = old if case in openai_gpt.CASES else {"n_ctx": 80}
  _, found = load_pretrained(folder(case, tmp_path, tensors, **old))
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@BOTH
def test_a_tied_copy_is_accepted_where_it_is_one(case, tmp_path):
  tensors = load_file(folder_of(case) / "model.safetensors")
  [table] = [name for name in tensors if name.endswith(("wte.weight", "tokens_embed.weight"))]
  tensors["lm_head.weight"] = tensors[table].copy()
  load_pretrained(folder(case, tmp_path, tensors))
  tensors["lm_head.weight"][3, 4] += 1.0
  with pytest.raises(UserError, match=r"lm_head\.weight"):
    load_pretrained(folder(case, tmp_path, tensors))


@pytest.mark.parametrize(
  ("case", "fields"),
  [
    (gpt2.CASES[0], {"scale_attn_by_inverse_layer_idx": True}),
    (gpt2.CASES[0], {"add_cross_attention": True}),
    (gpt2.CASES[0], {"activation_function": "mish"}),
    (openai_gpt.CASES[0], {"afn": "gelu_new"}),
    (openai_gpt.CASES[0], {"n_inner": 30}),
  ],
)
def test_a_field_that_means_another_model_is_refused_by_name(case, fields, tmp_path):
  name = "activation" if "activation_function" in fields else next(iter(fields))
  with pytest.raises(UserError, match=name):
    load_pretrained(folder(case, tmp_path, **fields))
