"""config.json as well-known checkpoints were released with it: read, and nothing in it refused."""

import json
import pathlib

import jax
import pytest

from llm_jax.errors import UserError
from llm_jax.interop import families
from llm_jax.interop.fields import Fields
from llm_jax.models.build import abstract_params, build
from llm_jax.models.spec import parse

# {name: {"millions": of parameters, "config": config.json}}
RELEASED = json.loads((pathlib.Path(__file__).parent / "released_configs.json").read_text())
_RENAMED = ("T5ForConditionalGeneration",)  # T5WithLMHeadModel, as it was called at first


def spec_of(config):
  """The model of a config.json, without its file: no head that only the file tells of."""
  read = Fields(config)
  found = families.of_config(config).model_config(read)
  read.finish()
  return found


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_config_is_read_as_a_model_of_its_size(name):
  config, millions = RELEASED[name]["config"], RELEASED[name]["millions"]
  sizes = [leaf.size for leaf in jax.tree.leaves(abstract_params(build(spec_of(config))))]
  assert sum(sizes) / 1e6 == pytest.approx(millions, abs=0.6, rel=1e-3)


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_config_is_found_again_in_what_its_model_is_saved_with(name):
  released = RELEASED[name]["config"]
  family, config = families.of_spec(parse(spec_of(released)))
  assert family.MODEL_TYPES[0] == config["model_type"] == released["model_type"]
  assert config["architectures"][0] in (*released["architectures"], *_RENAMED)


@pytest.mark.parametrize(
  ("name", "field", "value"),
  [
    ("distilbert-base-uncased", "tie_weights_", False),
    ("Qwen/Qwen2.5-0.5B", "use_mrope", True),
    ("bert-base-chinese", "directionality", "uni"),
    ("bert-base-chinese", "pooler_type", "mean"),
    ("bert-base-chinese", "pooler_fc_size", 512),
    ("HuggingFaceTB/SmolLM2-135M", "rope_interleaved", True),
  ],
)
def test_another_value_of_such_a_field_is_refused_by_name(name, field, value):
  with pytest.raises(UserError, match=f"{field}={value!r}"):
    spec_of(RELEASED[name]["config"] | {field: value})
