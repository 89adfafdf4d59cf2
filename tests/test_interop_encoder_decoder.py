"""Files of T5, BART and Marian as they were released, and what is refused of them by name."""

import importlib.util
import json

import jax
import numpy as np
import pytest

import llm_jax
from llm_jax import config as config_schema
from llm_jax.errors import UserError
from llm_jax.interop import bart, families, marian, t5
from llm_jax.interop.fields import Fields
from llm_jax.models.build import abstract_params, build
from llm_jax.models.spec import parse

# As the released config.json of t5-small, t5-v1_1-small, bart-large and opus-mt-en-de have them.
_T5 = {
  "architectures": ["T5ForConditionalGeneration"],
  "model_type": "t5",
  "d_ff": 2048,
  "d_kv": 64,
  "d_model": 512,
  "decoder_start_token_id": 0,
  "dropout_rate": 0.1,
  "eos_token_id": 1,
  "initializer_factor": 1.0,
  "is_encoder_decoder": True,
  "layer_norm_epsilon": 1e-06,
  "n_positions": 512,
  "num_heads": 8,
  "num_layers": 6,
  "output_past": True,
  "pad_token_id": 0,
  "relative_attention_num_buckets": 32,
  "task_specific_params": {"summarization": {"max_length": 200, "prefix": "summarize: "}},
  "vocab_size": 32128,
}
_T5_V1_1 = _T5 | {
  "d_ff": 1024,
  "feed_forward_proj": "gated-gelu",
  "num_decoder_layers": 8,
  "num_heads": 6,
  "num_layers": 8,
  "tie_word_embeddings": False,
  "use_cache": True,
}
_STACKS = {
  "_num_labels": 3,
  "add_bias_logits": False,
  "add_final_layer_norm": False,
  "attention_dropout": 0.1,
  "classif_dropout": 0.1,
  "decoder_layerdrop": 0.0,
  "encoder_layerdrop": 0.0,
  "gradient_checkpointing": False,
  "id2label": {"0": "LABEL_0"},
  "init_std": 0.02,
  "is_encoder_decoder": True,
  "normalize_before": False,
  "num_beams": 4,
  "use_cache": True,
}
_BART = _STACKS | {
  "architectures": ["BartModel"],
  "model_type": "bart",
  "activation_function": "gelu",
  "bos_token_id": 0,
  "d_model": 1024,
  "decoder_attention_heads": 16,
  "decoder_ffn_dim": 4096,
  "decoder_layers": 12,
  "decoder_start_token_id": 2,
  "early_stopping": True,
  "encoder_attention_heads": 16,
  "encoder_ffn_dim": 4096,
  "encoder_layers": 12,
  "eos_token_id": 2,
  "forced_eos_token_id": 2,
  "max_position_embeddings": 1024,
  "no_repeat_ngram_size": 3,
  "num_hidden_layers": 12,
  "pad_token_id": 1,
  "scale_embedding": False,
  "vocab_size": 50265,
}
_MARIAN = _STACKS | {
  "architectures": ["MarianMTModel"],
  "model_type": "marian",
  "activation_function": "swish",
  "bad_words_ids": [[58100]],
  "d_model": 512,
  "decoder_attention_heads": 8,
  "decoder_ffn_dim": 2048,
  "decoder_layers": 6,
  "decoder_start_token_id": 58100,
  "decoder_vocab_size": 58101,
  "encoder_attention_heads": 8,
  "encoder_ffn_dim": 2048,
  "encoder_layers": 6,
  "max_length": 512,
  "max_position_embeddings": 512,
  "normalize_embedding": False,
  "num_hidden_layers": 6,
  "pad_token_id": 58100,
  "scale_embedding": True,
  "share_encoder_decoder_embeddings": True,
  "static_position_embeddings": True,
  "vocab_size": 58101,
}


def spec_of(family, values, tensors=()):
  fields = Fields(values, tensors=tensors)
  config = family.model_config(fields)
  fields.finish()
  return families.resolved(parse(config))


def experiment(name, mode="", **options):
  config = config_schema.load(f"{config_schema.EXPERIMENTS / name}.py:{mode}", [])
  config.model.update(options)
  return config.model


@pytest.mark.parametrize(
  ("family", "values", "name", "mode"),
  [
    (t5, _T5, "t5", "small"),
    (t5, _T5_V1_1, "t5_v1_1", "small"),
    (bart, _BART, "bart", "large"),
    (marian, _MARIAN, "transformer", "opus-mt"),
  ],
)
def test_a_released_config_is_the_size_of_that_name(family, values, name, mode):
  here = families.resolved(parse(experiment(name, mode)))
  assert families._differences(spec_of(family, values), here) == []
  names = {row.path for row in family.weights(here)}
  shapes = jax.tree_util.tree_flatten_with_path(abstract_params(build(experiment(name, mode))))[0]
  assert names == {"/".join(key.key for key in path) for path, _ in shapes}


@pytest.mark.parametrize(
  ("name", "family"), [("t5", t5), ("t5_v1_1", t5), ("bart", bart), ("transformer", marian)]
)
def test_an_experiment_can_be_exported(name, family):
  assert families.of_spec(parse(experiment(name, "", vocab_size=90)))[0] is family


def test_a_t5_is_tied_as_its_file_is_whatever_transformers_5_wrote_into_its_config():
  written = _T5_V1_1 | {
    "tie_word_embeddings": True,
    "scale_decoder_outputs": False,
    "is_gated_act": True,
    "dense_act_fn": "gelu_new",
  }
  untied = spec_of(t5, written, tensors=["lm_head.weight", "shared.weight"])
  assert untied == spec_of(t5, _T5_V1_1)
  tied = spec_of(t5, written, tensors=["shared.weight"])
  assert tied.tie_embeddings and tied.logit_scale == 1.0
  assert families.of_spec(tied)[1]["scale_decoder_outputs"] is False


@pytest.mark.parametrize(
  ("family", "values", "field"),
  [
    (marian, _MARIAN | {"share_encoder_decoder_embeddings": False}, "share_encoder_decoder"),
    (marian, _MARIAN | {"decoder_vocab_size": 60000}, "decoder_vocab_size=60000"),
    (marian, _MARIAN | {"normalize_before": True}, "normalize_before=True"),
    (marian, _MARIAN | {"normalize_embedding": True}, "normalize_embedding=True"),
    (bart, _BART | {"normalize_embedding": False}, "normalize_embedding=False"),
    (bart, _BART | {"tie_word_embeddings": False}, "tie_word_embeddings=False"),
    (bart, _BART | {"activation_function": "tanh"}, "tanh"),
    (t5, _T5 | {"feed_forward_proj": "gated-relu"}, "feed_forward_proj='gated-relu'"),
    (t5, _T5_V1_1 | {"dense_act_fn": "gelu"}, "dense_act_fn='gelu'"),
    (t5, {k: v for k, v in _T5.items() if k != "d_kv"}, "no 'd_kv'"),
    (t5, _T5 | {"decoder_start_token_id": -1}, "decoder_start_token_id=-1 should be"),
    (t5, _T5 | {"feed_forward_proj": ["relu"]}, "feed_forward_proj.* should be a text"),
    (t5, _T5 | {"attention_kind": "sparse"}, "attention_kind='sparse'"),
  ],
)
def test_what_would_be_another_model_is_refused_by_name(family, values, field):
  with pytest.raises(UserError, match=field):
    spec_of(family, values)


@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
def test_a_bart_without_bias_is_the_bare_model_that_the_reference_puts_a_head_on(tmp_path):
  import torch

  from tests.parity import reference

  config = experiment("bart", "tiny", vocab_size=50)
  model = build(config)
  rng = np.random.default_rng(0)
  draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) * 0.2
  params = jax.tree.map(draw, abstract_params(model))
  llm_jax.save_pretrained(tmp_path, model, params)
  assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BartModel"]
  source, target = (rng.integers(4, 50, (1, length)) for length in (7, 5))
  expected = jax.jit(model.apply)({"params": params}, source, target)
  for name, ours in (
    ("BartModel", expected.hidden),
    ("BartForConditionalGeneration", expected.logits),
  ):
    other, info = reference.open_folder(tmp_path, name)
    assert info == {}
    result = other(input_ids=torch.tensor(source), decoder_input_ids=torch.tensor(target))
    np.testing.assert_allclose(result[0].detach().numpy(), ours, atol=1e-4)
