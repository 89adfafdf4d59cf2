"""BERT's kin as files: what older ones hold, what more than their class says, what is refused."""

import functools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import llm_jax
from llm_jax.errors import UserError
from tests.parity import bert, harness, roberta


def written(case, folder, tensors=dict, **config):
  """The folder of a case with other tensors (a function of the old ones) and config fields."""
  source = harness.folder_of(case)
  fields = json.loads((source / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps({**fields, **config}))
  save_file(tensors(load_file(source / "model.safetensors")), folder / "model.safetensors")
  return folder


def test_a_file_of_the_first_days_loads_as_a_new_one_does(tmp_path):
  """As bert-base-uncased is: gamma and beta, copies, buffers, and more heads than its class."""

  def older(tensors):
    table = tensors["bert.embeddings.word_embeddings.weight"]
    norms = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    old = lambda name: functools.reduce(lambda n, pair: n.replace(*pair), norms.items(), name)
    return {old(name): tensor for name, tensor in tensors.items()} | {
      "cls.predictions.decoder.weight": table.copy(),
      "cls.predictions.decoder.bias": tensors["cls.predictions.bias"].copy(),
      "bert.embeddings.position_ids": np.arange(19)[None],
    }

  case = bert.CASES[0]
  assert case.model == "BertForPreTraining"
  model, params = llm_jax.load_pretrained(harness.folder_of(case))
  folder = written(case, tmp_path, older, architectures=["BertForMaskedLM"])
  older_model, older_params = llm_jax.load_pretrained(folder)
  assert older_model.spec == model.spec
  assert model.spec.heads == ("masked_lm", "next_sentence")
  jax.tree.map(np.testing.assert_array_equal, older_params, params)


def test_a_pooler_beside_the_masked_lm_head_is_kept(tmp_path):
  """As roberta-base is."""
  pooler = {
    "roberta.pooler.dense.weight": np.eye(24, dtype=np.float32),
    "roberta.pooler.dense.bias": np.ones(24, np.float32),
  }
  folder = written(roberta.CASES[0], tmp_path, lambda tensors: tensors | pooler)
  model, params = llm_jax.load_pretrained(folder)
  assert model.spec.heads == ("masked_lm", "pooler")
  llm_jax.save_pretrained(tmp_path / "again", model, params)
  before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "again"))
  assert before.keys() == after.keys()
  assert llm_jax.load_pretrained(tmp_path / "again")[0].spec == model.spec


def test_a_bare_model_without_a_pooler_has_no_heads(tmp_path):
  case = bert.CASES[3]
  assert case.model == "BertModel"
  bare = lambda tensors: {k: v for k, v in tensors.items() if not k.startswith("pooler")}
  model, params = llm_jax.load_pretrained(written(case, tmp_path, bare))
  assert model.spec.heads == () and "pooler" not in params
  output = model.apply({"params": params}, case.batch["tokens"])
  assert output.logits is None and output.heads == {}


@pytest.mark.parametrize(
  ("case", "config"),
  [
    (bert.CASES[0], {"is_decoder": True}),
    (bert.CASES[0], {"add_cross_attention": True}),
    (bert.CASES[0], {"position_embedding_type": "relative_key"}),
    (bert.CASES[0], {"hidden_act": "relu"}),  # of the head too, where ours is GELU
    (bert.CASES[0], {"tie_word_embeddings": False}),
    (roberta.CASES[0], {"position_embedding_type": "relative_key_query"}),
    (roberta.CASES[0], {"architectures": ["RobertaForSequenceClassification"]}),
  ],
)
def test_what_would_be_another_model_is_refused_by_name(case, config, tmp_path):
  [(name, value)] = config.items()
  named = value[0] if name == "architectures" else name
  with pytest.raises(UserError, match=named):
    llm_jax.load_pretrained(written(case, tmp_path, **config))


def test_a_missing_head_is_no_other_model(tmp_path):
  case = bert.CASES[0]
  bare = lambda tensors: {k: v for k, v in tensors.items() if "predictions" not in k}
  with pytest.raises(UserError, match="predictions"):
    llm_jax.load_pretrained(written(case, tmp_path, bare))
