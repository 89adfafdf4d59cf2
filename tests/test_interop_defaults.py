"""What is missing in config.json, and names that mislead, mean what they do to the reference."""

import importlib.util
import re

import pytest

from llm_jax.errors import UserError
from llm_jax.interop import families
from llm_jax.interop.fields import Fields, gated
from llm_jax.models.spec import parse

TYPES = sorted({t for m in families.modules().values() for t in m.MODEL_TYPES} - {"rwkv_official"})
live = pytest.mark.skipif(
  not importlib.util.find_spec("transformers"), reason="transformers is not installed"
)


def spec_of(config):
  read = Fields(config)
  found = families.of_config(config).model_config(read)
  read.finish()
  return families.resolved(parse(found))


@live
@pytest.mark.parametrize("kind", TYPES)
def test_a_missing_field_means_what_it_means_to_the_reference(kind):
  """A config of the needed fields alone is that which the reference writes of it, all written."""
  from transformers import AutoConfig

  defaults, config = AutoConfig.for_model(kind), {"model_type": kind}
  for _ in range(30):
    try:
      here = spec_of(config)
      break
    except UserError as error:
      name = re.search(r"has no '(\w+)'", str(error))[1]
      config[name] = getattr(defaults, name)
  there = spec_of(AutoConfig.for_model(**config).to_dict() | {"architectures": None})
  different = {key for key, *_ in families._differences(here, there)}
  assert different - {"layers.rwkv4_channel_mix.d_ff"} == set()  # 0 is four times the width


@pytest.mark.parametrize(
  ("kind", "groups", "head_dim", "epsilon", "base", "window"),
  [
    ("llama", 64, 64, 1e-6, 1e4, 0),
    ("mistral", 8, 64, 1e-6, 1e4, 4096),
    ("mixtral", 8, 64, 1e-5, 1e6, 0),
    ("qwen2", 32, 64, 1e-6, 1e4, 0),
    ("qwen3", 32, 128, 1e-6, 1e4, 0),
  ],
)
def test_llamas_relatives_have_defaults_of_their_own(kind, groups, head_dim, epsilon, base, window):
  config = {"model_type": kind, "vocab_size": 50, "hidden_size": 4096, "intermediate_size": 96}
  config |= {"num_hidden_layers": 2, "num_attention_heads": 64}
  for null in ({}, {"num_key_value_heads": None}):  # null is as many as heads, in all of them
    spec = spec_of(config | null)
    attention = spec.layers["attention"]
    assert attention["num_kv_heads"] == (64 if null else groups)
    assert (attention["head_dim"], attention["rope_base"]) == (head_dim, base)
    assert (spec.norm_epsilon, attention["window"]) == (epsilon, window)


@live
@pytest.mark.parametrize("name", ["gelu", "gelu_pytorch_tanh", "gelu_new", "silu", "gelu_python"])
def test_gemmas_gelu_is_the_form_that_the_reference_takes_it_for(name):
  from transformers import GemmaConfig

  sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "head_dim": 4}
  sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1}
  spec = spec_of({"model_type": "gemma", "hidden_act": name, **sizes})
  assert spec.layers["mlp"]["activation"] == gated(GemmaConfig(hidden_act=name, **sizes).hidden_act)
