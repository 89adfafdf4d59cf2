"""Files of Pythia, BLOOM, Gemma and Gemma 2 as they were published, and those that are refused."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_jax import config as config_schema
from llm_jax.errors import UserError
from llm_jax.interop import families
from llm_jax.interop.fields import Fields
from llm_jax.interop.pretrained import load_pretrained
from llm_jax.interop.weights import stages_of
from llm_jax.models.spec import parse
from tests.parity import bloom, gemma, gpt_neox
from tests.parity.harness import folder_of

# The fields of the first files that were released, those that mean nothing to the model included.
_COMMON = {"bos_token_id": 2, "eos_token_id": 1, "initializer_range": 0.02, "use_cache": True}
PYTHIA = _COMMON | {
  "architectures": ["GPTNeoXForCausalLM"],
  "model_type": "gpt_neox",
  "hidden_act": "gelu",
  "hidden_size": 512,
  "intermediate_size": 2048,
  "layer_norm_eps": 1e-05,
  "max_position_embeddings": 2048,
  "num_attention_heads": 8,
  "num_hidden_layers": 6,
  "rotary_emb_base": 10000,
  "rotary_pct": 0.25,
  "tie_word_embeddings": False,
  "torch_dtype": "float16",
  "use_parallel_residual": True,
  "vocab_size": 50304,
}
BLOOM = _COMMON | {
  "architectures": ["BloomForCausalLM"],
  "model_type": "bloom",
  "apply_residual_connection_post_layernorm": False,
  "attention_dropout": 0.0,
  "attention_softmax_in_fp32": True,
  "bias_dropout_fusion": True,
  "hidden_dropout": 0.0,
  "layer_norm_epsilon": 1e-05,
  "masked_softmax_fusion": True,
  "n_embed": 1024,
  "n_inner": None,
  "n_layer": 24,
  "num_attention_heads": 16,
  "offset_alibi": 100,
  "pretraining_tp": 1,
  "seq_length": 2048,
  "skip_bias_add": True,
  "skip_bias_add_qkv": False,
  "slow_but_exact": False,
  "unk_token_id": 0,
  "vocab_size": 250880,
}
GEMMA = _COMMON | {
  "architectures": ["GemmaForCausalLM"],
  "model_type": "gemma",
  "attention_bias": False,
  "attention_dropout": 0.0,
  "head_dim": 256,
  "hidden_act": "gelu",
  "hidden_activation": None,
  "hidden_size": 2048,
  "intermediate_size": 16384,
  "max_position_embeddings": 8192,
  "num_attention_heads": 8,
  "num_hidden_layers": 18,
  "num_key_value_heads": 1,
  "rms_norm_eps": 1e-06,
  "rope_scaling": None,
  "rope_theta": 10000.0,
  "vocab_size": 256000,
}
GEMMA2 = GEMMA | {
  "architectures": ["Gemma2ForCausalLM"],
  "model_type": "gemma2",
  "cache_implementation": "hybrid",
  "attn_logit_softcapping": 50.0,
  "final_logit_softcapping": 30.0,
  "hidden_act": "gelu_pytorch_tanh",
  "hidden_activation": "gelu_pytorch_tanh",
  "hidden_size": 3584,
  "intermediate_size": 14336,
  "num_attention_heads": 16,
  "num_hidden_layers": 42,
  "num_key_value_heads": 8,
  "query_pre_attn_scalar": 256,
  "sliding_window": 4096,
  "sliding_window_size": 4096,
}


def spec_of(config, **fields):
  """The model of a config.json."""
  read = Fields(config | fields)
  found = families.of_config(config).model_config(read)
  read.finish()
  return families.resolved(parse(found))


@pytest.mark.parametrize(
  ("config", "experiment"),
  [
    (PYTHIA, "pythia.py:70m"),
    (BLOOM, "bloom.py:560m"),
    (GEMMA, "gemma.py:2b"),
    (GEMMA2, "gemma2.py:9b"),
  ],
  ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_released_config_is_the_experiment_of_its_size(config, experiment):
  ours = config_schema.load(f"{config_schema.EXPERIMENTS}/{experiment}", []).model
  assert spec_of(config) == families.resolved(parse(ours))


@pytest.mark.parametrize(
  ("config", "field", "value"),
  [
    (PYTHIA, "rope_theta", 500.0),  # beside another rotary_emb_base
    (PYTHIA, "is_decoder", True),
    (PYTHIA, "shared_norm", True),
    (BLOOM, "apply_residual_connection_post_layernorm", True),
    (BLOOM, "n_inner", 2048),
    (BLOOM, "hidden_size", 512),  # beside another n_embed
    (GEMMA, "use_bidirectional_attention", True),
    (GEMMA, "hidden_activation", "gelu"),  # which versions of transformers read differently
    (GEMMA, "partial_rotary_factor", 0.5),
    (GEMMA | {"model_type": "llama", "hidden_act": "silu"}, "partial_rotary_factor", 0.5),
    (GEMMA, "sliding_window", 512),
    (GEMMA, "num_key_value_heads", None),
    (GEMMA2, "use_bidirectional_attention", True),
    (GEMMA2, "sliding_window", None),
    (GEMMA2, "layer_types", ["full_attention"]),
    (GEMMA2, "rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
  ],
)
def test_a_field_that_means_another_model_is_refused_by_name(config, field, value):
  name = "rope_type" if field == "rope_scaling" else field
  with pytest.raises(UserError, match=name):
    spec_of(config, **{field: value})


def test_a_cap_that_is_null_is_none_and_one_that_is_missing_is_the_published_one():
  null = spec_of(GEMMA2, attn_logit_softcapping=None, final_logit_softcapping=None)
  assert null.logit_soft_cap == null.layers["attention"]["soft_cap"] == 0.0
  assert null.layers["local"]["soft_cap"] == 0.0
  missing = {k: v for k, v in GEMMA2.items() if "softcapping" not in k}
  assert spec_of(missing) == spec_of(GEMMA2)


@pytest.mark.parametrize("kinds", ["sf", "sfsfs", "fffff", "ssf", "ssfssfss", "sfff", "ffsfs"])
def test_layers_with_and_without_a_window_keep_their_order(kinds):
  names = {"s": "sliding_attention", "f": "full_attention"}
  listed = [names[kind] for kind in kinds]
  spec = spec_of(GEMMA2, layer_types=listed, num_hidden_layers=len(kinds))
  order = [name for pattern, repeats in spec.decoder_stages for name in pattern * repeats]
  assert order[1::2] == ["mlp"] * len(kinds)
  assert order[::2] == ["local" if kind == "s" else "attention" for kind in kinds]
  family, config = families.of_spec(spec)
  assert (family.__name__, config["layer_types"]) == ("llm_jax.interop.gemma2", listed)


@pytest.mark.parametrize(
  ("kinds", "stages"),
  [
    ("ssssss", "s*6"),
    ("sfsfsf", "sf*3"),
    ("sfsfs", "sf*2 s*1"),
    ("ffffss", "f*4 s*2"),  # as Qwen 2's layers are: windows from one layer on
    ("ssfssfss", "ssf*2 ss*1"),
    ("sf", "sf*1"),
  ],
)
def test_layers_are_put_into_the_stages_that_compile_the_fewest(kinds, stages):
  options = stages_of(kinds)
  found = options.get("stages") or ((options["pattern"], options["repeats"]),)
  assert " ".join(f"{''.join(part)}*{repeats}" for part, repeats in found) == stages


def test_layers_that_alternate_share_a_scan_in_qwen_too():
  sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
  config = {"model_type": "qwen2", "num_key_value_heads": 2, "num_hidden_layers": 6, **sizes}
  kinds = ["sliding_attention", "full_attention"] * 3
  spec = spec_of(config, use_sliding_window=True, sliding_window=5, layer_types=kinds)
  assert spec.decoder_stages == ((("local", "mlp", "attention", "mlp"), 3),)
  assert families.of_spec(spec)[1]["layer_types"] == kinds


def test_a_model_in_other_stages_is_published_as_the_same_model():
  spec = spec_of(GEMMA)
  other = dataclasses.replace(spec, pattern=spec.pattern * 2, repeats=spec.repeats // 2)
  assert families.of_spec(other)[1] == families.of_spec(spec)[1]


NAMES = {
  "gpt_neox": {"embed_out.": "lm_head."},
  "bloom": {"transformer.": ""},
  "gemma": {"model.": ""},
}


@pytest.mark.parametrize(
  "case", [f.CASES[0] for f in (gpt_neox, bloom, gemma)], ids=lambda c: c.name
)
def test_names_of_other_versions_and_buffers_hold_the_same_parameters(case, tmp_path):
  _, expected = load_pretrained(folder_of(case))
  tensors = load_file(folder_of(case) / "model.safetensors")
  [(old, new)] = NAMES[case.name].items()
  replaced = {name.replace(old, new): value for name, value in tensors.items()}
  assert replaced.keys() != tensors.keys()
  if case.name == "gpt_neox":
    for name in ("bias", "masked_bias", "rotary_emb.inv_freq"):
      replaced[f"gpt_neox.layers.1.attention.{name}"] = np.ones(3, np.float32)
  save_file(replaced, tmp_path / "model.safetensors")
  config = json.loads((folder_of(case) / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(config))
  _, found = load_pretrained(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_heads_and_parts_of_a_fused_projection_are_where_they_belong():
  """Row by row, without the layout that the table is written in."""
  case = gpt_neox.CASES[0]
  _, params = load_pretrained(folder_of(case))
  tensors = load_file(folder_of(case) / "model.safetensors")
  attention = params["stack"]["0"]["0_attention"]
  at = functools.partial("gpt_neox.layers.{}.attention.query_key_value.{}".format)
  heads, size = 3, 16
  for layer in range(2):
    for head in range(heads):
      for part, name in enumerate("qkv"):
        rows = slice((3 * head + part) * size, (3 * head + part + 1) * size)
        kernel, bias = (attention[name][kind][layer] for kind in ("kernel", "bias"))
        np.testing.assert_array_equal(kernel[:, head], tensors[at(layer, "weight")][rows].T)
        np.testing.assert_array_equal(bias[head], tensors[at(layer, "bias")][rows])
