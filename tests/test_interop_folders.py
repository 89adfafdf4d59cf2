"""What lies where a checkpoint is saved: what is replaced, and what is left alone."""

import pytest

import llm_jax
from llm_jax.errors import UserError
from llm_jax.interop import files
from llm_jax.models.spec import model_config
from tests.test_interop import llama, numbered

RWKV5 = model_config(
  vocab_size=20,
  d_model=16,
  pattern=("rwkv5_time_mix", "rwkv4_channel_mix"),
  embedding_norm=True,
  tie_embeddings=False,
)


@pytest.mark.parametrize("text", ['{"steps": 3}', "no JSON", "[1]"])
def test_a_config_of_something_else_is_neither_replaced_nor_removed(text, tmp_path):
  (tmp_path / "config.json").write_text(text)
  rwkv = llm_jax.build(RWKV5)
  for model in (llama(), rwkv):
    with pytest.raises(UserError, match=r"config\.json"):
      llm_jax.save_pretrained(tmp_path, model, numbered(model))
  with pytest.raises(UserError, match=r"taken for that of model\.safetensors"):
    llm_jax.save_pretrained(tmp_path / files.SINGLE, rwkv, numbered(rwkv))
  assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
  llm_jax.save_pretrained(tmp_path / "x.safetensors", rwkv, numbered(rwkv))
  assert (tmp_path / "config.json").read_text() == text
  llm_jax.load_pretrained(tmp_path / "x.safetensors")


def test_a_neighbours_config_stays_and_that_of_an_earlier_save_goes(tmp_path):
  folder, first = tmp_path / "hf", llama()
  llm_jax.save_pretrained(folder, first, numbered(first))
  written, rwkv = (folder / files.CONFIG).read_text(), llm_jax.build(RWKV5)
  llm_jax.save_pretrained(folder / "x.safetensors", rwkv, numbered(rwkv))
  with pytest.raises(UserError, match=r"taken for that of model\.safetensors"):
    llm_jax.save_pretrained(folder / files.SINGLE, rwkv, numbered(rwkv))
  assert (folder / files.CONFIG).read_text() == written
  llm_jax.save_pretrained(folder, rwkv, numbered(rwkv))
  assert not (folder / files.CONFIG).exists()
