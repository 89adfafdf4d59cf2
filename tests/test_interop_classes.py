"""The class in config.json: bare models have no head, and classes with other heads are refused."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import llm_jax
from llm_jax.errors import UserError
from llm_jax.interop import families
from llm_jax.interop.fields import Fields
from tests.parity import gpt2, harness, marian, openai_gpt, recurrent_gemma, rwkv, t5

CASES = {name: module.CASES[0] for name, module in harness.families().items()}
# {class: a case of its family, the prefix that its tensors lack}
BARE = {
  "GPT2Model": (gpt2.CASES[1], "transformer."),
  "OpenAIGPTModel": (openai_gpt.CASES[0], "transformer."),
  "RwkvModel": (rwkv.CASES[0], "rwkv."),
  "RecurrentGemmaModel": (recurrent_gemma.CASES[1], "model."),
  "MarianModel": (marian.CASES[0], "model."),
  "T5Model": (t5.CASES[1], ""),
}
HEADS = ("lm_head.weight", "head.weight", "final_logits_bias")


@pytest.mark.parametrize("name", CASES)
def test_a_class_with_heads_of_its_own_is_refused_by_name(name):
  config = harness.Golden(CASES[name]).about["config"]
  family = families.of_config(config)
  family.model_config(Fields(config))
  stem = config["architectures"][0].partition("For")[0].removesuffix("LMHeadModel")
  for other in ("ForSequenceClassification", "DoubleHeadsModel", "ForQuestionAnswering"):
    with pytest.raises(UserError, match=f"architecture.*{stem}{other}"):
      family.model_config(Fields(config | {"architectures": [stem + other]}))


@pytest.mark.parametrize("name", BARE)
def test_a_bare_model_has_no_logits_and_is_saved_as_one(name, tmp_path):
  case, prefix = BARE[name]
  config = harness.Golden(case).about["config"] | {"architectures": [name]}
  tensors = load_file(harness.folder_of(case) / "model.safetensors")
  bare = {n.removeprefix(prefix): t for n, t in tensors.items() if n not in HEADS}
  assert bare.keys() != tensors.keys() or not prefix
  (tmp_path / "config.json").write_text(json.dumps(config))
  save_file(bare, tmp_path / "model.safetensors")
  model, params = llm_jax.load_pretrained(tmp_path)
  assert model.spec.heads == ()
  assert not {"head", "pooler"} & params.keys()
  output = jax.eval_shape(lambda params: harness.call(case, model, params), params)
  assert output.logits is None and output.heads == {}
  llm_jax.save_pretrained(tmp_path / "again", model, params)
  written = json.loads((tmp_path / "again/config.json").read_text())
  assert written["architectures"] == [name]
  again, params_again = llm_jax.load_pretrained(tmp_path / "again")
  assert families.resolved(again.spec) == families.resolved(model.spec)
  jax.tree.map(np.testing.assert_array_equal, params, params_again)
  if importlib.util.find_spec("transformers"):
    from tests.parity import reference

    other, info = reference.open_folder(tmp_path / "again", name)
    missing = info.pop("missing_keys", [])
    assert info == {} and type(other).__name__ == name
    assert all(n.endswith("embed_positions.weight") for n in missing)  # which it computes: Marian's
