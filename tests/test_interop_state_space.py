"""Files of Mamba, Mamba-2 and Jamba as they were published, and those that are refused."""

import json
import math

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_jax import config as config_schema
from llm_jax.errors import UserError
from llm_jax.interop import families
from llm_jax.interop.fields import Fields
from llm_jax.interop.pretrained import load_pretrained
from llm_jax.models.spec import parse
from tests.parity import mamba as mamba_cases
from tests.parity import mamba2 as mamba2_cases
from tests.parity.harness import folder_of

# The fields of the first files that were released, those that mean nothing to the model included.
_COMMON = {
  "bos_token_id": 0,
  "eos_token_id": 0,
  "pad_token_id": 0,
  "conv_kernel": 4,
  "expand": 2,
  "hidden_act": "silu",
  "initializer_range": 0.1,
  "layer_norm_epsilon": 1e-05,
  "rescale_prenorm_residual": False,
  "residual_in_fp32": True,
  "rms_norm": True,
  "time_step_floor": 0.0001,
  "time_step_init_scheme": "random",
  "time_step_max": 0.1,
  "time_step_min": 0.001,
  "time_step_scale": 1.0,
  "torch_dtype": "float32",
  "use_bias": False,
  "use_cache": True,
  "use_conv_bias": True,
}
MAMBA = _COMMON | {
  "architectures": ["MambaForCausalLM"],
  "model_type": "mamba",
  "d_inner": 1536,
  "d_model": 768,
  "fused_add_norm": True,
  "hidden_size": 768,
  "intermediate_size": 1536,
  "n_layer": 24,
  "num_hidden_layers": 24,
  "pad_vocab_size_multiple": 8,
  "ssm_cfg": {},
  "state_size": 16,
  "time_step_rank": 48,
  "vocab_size": 50280,
}
MAMBA2 = _COMMON | {
  "architectures": ["Mamba2ForCausalLM"],
  "model_type": "mamba2",
  "chunk_size": 256,
  "head_dim": 64,
  "hidden_size": 4096,
  "intermediate_size": 8192,
  "n_groups": 8,
  "norm_before_gate": True,
  "num_heads": 128,
  "num_hidden_layers": 64,
  "state_size": 128,
  "tie_word_embeddings": False,
  "time_step_limit": [0.0, math.inf],
  "time_step_rank": 256,
  "vocab_size": 32768,
}
JAMBA = {
  "architectures": ["JambaForCausalLM"],
  "model_type": "jamba",
  "attention_dropout": 0.0,
  "attn_layer_offset": 4,
  "attn_layer_period": 8,
  "bos_token_id": 1,
  "calc_logits_for_entire_prompt": False,
  "eos_token_id": 2,
  "expert_layer_offset": 1,
  "expert_layer_period": 2,
  "hidden_act": "silu",
  "hidden_size": 4096,
  "initializer_range": 0.02,
  "intermediate_size": 14336,
  "mamba_conv_bias": True,
  "mamba_d_conv": 4,
  "mamba_d_state": 16,
  "mamba_dt_rank": 256,
  "mamba_expand": 2,
  "mamba_inner_layernorms": True,
  "mamba_proj_bias": False,
  "max_position_embeddings": 262144,
  "n_ctx": 262144,
  "num_attention_heads": 32,
  "num_experts": 16,
  "num_experts_per_tok": 2,
  "num_hidden_layers": 32,
  "num_key_value_heads": 8,
  "output_router_logits": False,
  "rms_norm_eps": 1e-06,
  "router_aux_loss_coef": 0.001,
  "sliding_window": None,
  "tie_word_embeddings": False,
  "use_mamba_kernels": True,
  "vocab_size": 65536,
}


def spec_of(config, **fields):
  """The model of a config.json."""
  read = Fields(config | fields)
  found = families.of_config(config).model_config(read)
  read.finish()
  return families.resolved(parse(found))


@pytest.mark.parametrize(
  ("config", "experiment"),
  [(MAMBA, "mamba.py:130m"), (MAMBA2, "mamba2.py:7b"), (JAMBA, "jamba.py:52b")],
  ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_released_config_is_the_experiment_of_its_size(config, experiment):
  ours = config_schema.load(f"{config_schema.EXPERIMENTS}/{experiment}", []).model
  assert spec_of(config) == families.resolved(parse(ours))


@pytest.mark.parametrize(
  ("config", "field", "value"),
  [
    (MAMBA, "hidden_act", "gelu"),
    (MAMBA, "intermediate_size", 2048),
    (MAMBA, "n_layer", 12),
    (MAMBA, "rms_norm", False),
    (MAMBA, "ssm_cfg", {"layer": "Mamba2"}),
    (MAMBA, "mixer_rms_eps", 1e-6),  # of a relative that norms what it makes
    (MAMBA, "time_step_rank", "automatic"),
    (MAMBA2, "num_heads", 64),
    (MAMBA2, "time_step_limit", [0.0, "long"]),
    (MAMBA2, "time_step_limit", 3),
    (JAMBA, "hidden_act", "gelu"),
    (JAMBA, "mamba_inner_layernorms", False),
    (JAMBA, "sliding_window", 4096),
    (JAMBA, "attn_layer_offset", 8),
    (JAMBA, "rope_theta", 1e4),
  ],
)
def test_a_field_that_means_another_model_is_refused_by_name(config, field, value):
  with pytest.raises(UserError, match=field):
    spec_of(config, **{field: value})


@pytest.mark.parametrize("rank", [5, None])
def test_a_rank_that_is_left_open_is_a_sixteenth_of_the_width(rank):
  for name, config in (("mamba", MAMBA), ("jamba", JAMBA)):
    field = {"mamba": "time_step_rank", "jamba": "mamba_dt_rank"}[name]
    found = spec_of(config, **{field: rank or "auto"}).layers["mamba"]["dt_rank"]
    assert found == (rank or config["hidden_size"] // 16)


@pytest.mark.parametrize(
  ("written", "limits"),
  [
    ([0.0, math.inf], ()),
    ([0.0, {"__float__": "Infinity"}], ()),
    ([0.1, {"__float__": "Infinity"}], (0.1, math.inf)),
    ([0.1, 0.5], (0.1, 0.5)),
  ],
)
def test_limits_of_the_step_size_are_read_as_both_versions_write_them(written, limits):
  spec = spec_of(MAMBA2, time_step_limit=written)
  assert spec.layers["mamba2"]["dt_limits"] == limits
  assert spec_of(families.of_spec(spec)[1]) == spec


@pytest.mark.parametrize(
  ("layers", "attention", "experts", "kinds"),
  [
    (7, (3, 1), (2, 1), "m+M a+E m+M m+E a+M m+E m+M"),
    (5, (8, 4), (2, 0), "m+E m+M m+E m+M a+E"),
    (3, (8, 4), (1, 0), "m+E m+E m+E"),
    (4, (2, 0), (4, 2), "a+M m+M a+E m+M"),
  ],
)
def test_attention_and_experts_come_back_where_they_were(layers, attention, experts, kinds):
  rules = dict(zip(("attn_layer_period", "attn_layer_offset"), attention, strict=True))
  rules |= dict(zip(("expert_layer_period", "expert_layer_offset"), experts, strict=True))
  spec = spec_of(JAMBA, num_hidden_layers=layers, **rules)
  order = [name for pattern, repeats in spec.decoder_stages for name in pattern * repeats]
  letters = {"mamba": "m", "attention": "a", "mlp": "M", "moe": "E"}
  found = [letters[name] for name in order]
  assert " ".join(map("+".join, zip(found[::2], found[1::2], strict=True))) == kinds
  family, config = families.of_spec(spec)
  assert family.__name__ == "llm_jax.interop.jamba"
  assert spec_of(config) == spec


def test_a_single_expert_is_a_feed_forward_layer():
  spec = spec_of(JAMBA, num_experts=1)
  assert set(spec.layers) == {"mamba", "attention", "mlp"}
  assert families.of_spec(spec)[1]["num_experts"] == 1


@pytest.mark.parametrize(
  "case", [mamba_cases.CASES[0], mamba2_cases.CASES[0]], ids=lambda c: c.name
)
def test_the_older_name_of_the_embeddings_is_read(case, tmp_path):
  _, expected = load_pretrained(folder_of(case))
  tensors = load_file(folder_of(case) / "model.safetensors")
  renamed = {name.replace("embeddings.", "embedding."): v for name, v in tensors.items()}
  assert renamed.keys() != tensors.keys()
  save_file(renamed, tmp_path / "model.safetensors")
  config = json.loads((folder_of(case) / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(config))
  _, found = load_pretrained(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
