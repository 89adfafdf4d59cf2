"""Published checkpoints in and out: what is refused, by which name, and what loading costs.

Legend: T position.
"""

import importlib.util
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import llm_jax
from llm_jax import config as config_schema
from llm_jax.errors import UserError
from llm_jax.interop import families, files, tables
from llm_jax.models import build
from llm_jax.models.spec import model_config

QUERY, EMBED = "model.layers.1.self_attn.q_proj.weight", "model.embed_tokens.weight"


def llama(d_model=16, repeats=2, d_ff=24, vocab_size=20, **options):
  heads = {"num_heads": 4, "num_kv_heads": 2, "positions": "rope"}
  return llm_jax.build(
    model_config(
      vocab_size=vocab_size,
      d_model=d_model,
      repeats=repeats,
      norm="rmsnorm",
      tie_embeddings=False,
      layers={
        "attention": {**heads, "use_bias": False, "out_bias": False},
        "mlp": {"activation": "swiglu", "use_bias": False, "d_ff": d_ff},
      },
      **options,
    )
  )


def numbered(model):
  """Parameters of which no two entries are equal, made without compiling anything."""
  leaves, treedef = jax.tree.flatten(build.abstract_params(model))
  rng = np.random.RandomState(0)
  return treedef.unflatten([rng.standard_normal(x.shape).astype(np.float32) for x in leaves])


@pytest.fixture
def saved(tmp_path):
  """A folder as published, its model and parameters."""
  model = llama()
  params = numbered(model)
  llm_jax.save_pretrained(tmp_path / "hf", model, params)
  return tmp_path / "hf", model, params


def change(folder, tensors=lambda tensors: tensors, **fields):
  """Rewrites a folder's tensors, and fields of its config.json (None: null)."""
  found = load_file(folder / files.SINGLE)
  save_file(tensors(found) or found, folder / files.SINGLE)
  config = json.loads((folder / files.CONFIG).read_text())
  (folder / files.CONFIG).write_text(json.dumps({**config, **fields}))


def assert_equal(params, expected):
  assert jax.tree.structure(params) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, params, expected)


# ------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"model_type": "lama"}, "Did you mean 'llama'"),
    ({"model_type": None}, "no model_type"),
    ({"hidden_size": None}, "'hidden_size'"),
    ({"attention_multiplier": 0.5}, "attention_multiplier=0.5"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"is_decoder": True}, "is_decoder=True"),
    ({"hidden_act": "gelu_neww"}, "Did you mean 'gelu_new'"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'"),
    ({"rope_parameters": {"rope_theta": 1e4, "attention_factor": 3.0}}, "attention_factor=3.0"),
    ({"model_type": ["llama"]}, "Unknown model_type"),
    ({"num_attention_heads": 0}, "num_attention_heads=0 should be a whole number of at least 1"),
    ({"num_hidden_layers": "x"}, "num_hidden_layers='x' should be a whole number"),
    ({"num_hidden_layers": True}, "num_hidden_layers=True should be a whole number"),
    ({"vocab_size": 10**30}, "vocab_size=1000000000000000000000000000000 should be"),
    ({"intermediate_size": -24}, "intermediate_size=-24 should be a whole number"),
    ({"head_dim": 4.0}, "head_dim=4.0 should be a whole number"),
    ({"rms_norm_eps": "1e-5"}, "rms_norm_eps='1e-5' should be a positive number"),
    ({"rms_norm_eps": False}, "rms_norm_eps=False should be a positive number"),
    ({"rms_norm_eps": -1e-5}, "rms_norm_eps=-1e-05 should be a positive number"),
    ({"attention_bias": "no"}, "attention_bias='no' should be true or false"),
    ({"hidden_act": ["silu"]}, "hidden_act=['silu'] should be a text"),
    ({"rope_scaling": "linear"}, "rope_scaling='linear' should be an object"),
    ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor='2' should be a positive number"),
    ({"architectures": "LlamaForCausalLM"}, "should be a list of texts"),
    ({"num_key_value_heads": 3}, "num_kv_heads=3"),
    ({"hidden_size": 10**6, "vocab_size": 10**9, "intermediate_size": 10**9}, "has shape"),
    ({"architectures": ["LlamaForTokenClassification"]}, "LlamaForTokenClassification"),
    ({"intermediate_size": 32}, "mlp.up_proj.weight' has shape (24, 16)"),
    ({"num_hidden_layers": 1}, "model.layers.1."),
    ({"attention_bias": True}, "'model.layers.0.self_attn.q_proj.bias'"),
  ],
)
def test_a_config_that_we_would_misread_is_refused_by_the_fields_name(saved, fields, message):
  folder, _, _ = saved
  change(folder, **fields)
  with pytest.raises(UserError) as error:
    llm_jax.load_pretrained(folder)
  assert message in str(error.value)


@pytest.mark.parametrize(
  ("change_tensors", "message"),
  [
    (lambda t: t.pop(QUERY) is None, f"lacks '{QUERY}'"),
    (lambda t: t.update(extra=np.ones(1, np.float32)), "holds 'extra'"),
    (lambda t: t.update({QUERY: t[QUERY].T[:3].copy()}), f"'{QUERY}' has shape (3, 16)"),
    (lambda t: t.update({QUERY: t[QUERY].astype(np.int32)}), f"'{QUERY}' is stored as int32"),
  ],
)
def test_tensors_that_are_not_the_models_are_refused_by_name(saved, change_tensors, message):
  folder, _, _ = saved
  change(folder, lambda tensors: change_tensors(tensors) and None)
  with pytest.raises(UserError) as error:
    llm_jax.load_pretrained(folder)
  assert message in str(error.value)


def test_buffers_of_older_files_are_left_out_by_name(saved):
  folder, _, params = saved
  name = "model.layers.0.self_attn.rotary_emb.inv_freq"
  change(folder, lambda t: t.update({name: np.ones(2, np.float32)}))
  assert_equal(llm_jax.load_pretrained(folder)[1], params)


def test_a_truncated_file_is_refused_by_name(saved):
  file = saved[0] / files.SINGLE
  whole = file.read_bytes()
  for size in (len(whole) - 1, 40, 0):
    file.write_bytes(whole[:size])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
      llm_jax.load_pretrained(saved[0])


def test_a_folder_without_weights_or_config_is_told_what_was_expected(saved, tmp_path):
  folder, _, _ = saved
  with pytest.raises(UserError, match=r"Expected a folder with config\.json"):
    llm_jax.load_pretrained(tmp_path / "nowhere")
  (folder / files.CONFIG).unlink()
  with pytest.raises(UserError, match=r"has no config\.json"):
    llm_jax.load_pretrained(folder)
  (folder / files.SINGLE).rename(folder / "pytorch_model.bin")
  with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle"):
    llm_jax.load_pretrained(folder)


def test_a_tied_copy_must_equal_its_original(saved):
  folder, _, _ = saved
  with pytest.raises(UserError, match=r"'lm_head\.weight' differs from 'model\.embed_tokens"):
    change(folder, tie_word_embeddings=True)
    llm_jax.load_pretrained(folder)
  change(folder, lambda t: t.update({"lm_head.weight": t[EMBED]}))
  model, _ = llm_jax.load_pretrained(folder)
  assert model.spec.tie_embeddings
  change(folder, lambda t: t.pop(EMBED) is None and None)  # one of the two is enough
  llm_jax.load_pretrained(folder)


def test_a_torch_file_holds_tensors_and_runs_no_code(saved):
  torch = pytest.importorskip("torch")
  folder, _, params = saved
  tensors = load_file(folder / files.SINGLE)
  (folder / files.SINGLE).unlink()
  as_torch = {k: torch.from_numpy(v.copy()).to(torch.bfloat16) for k, v in tensors.items()}
  torch.save(as_torch, folder / "model.pth")
  _, found = llm_jax.load_pretrained(folder)
  assert_equal(found, jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), params))
  torch.save({"a": pathlib.Path}, folder / "model.pth")
  with pytest.raises(UserError, match=r"model\.pth is no torch file of named tensors"):
    llm_jax.load_pretrained(folder)


# ------------------------------------------------------------------------------ several files


def shard(folder):
  """The same checkpoint in two files and an index."""
  tensors, where = load_file(folder / files.SINGLE), {}
  for number in (1, 2):
    name = f"model-0000{number}-of-00002.safetensors"
    part = {key: tensors[key] for key in sorted(tensors)[number - 1 :: 2]}
    save_file(part, folder / name)
    where |= dict.fromkeys(part, name)
  (folder / files.SINGLE).unlink()
  return where


def index(folder, where):
  (folder / files.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_several_files_hold_what_one_does(saved):
  folder, _, params = saved
  index(folder, shard(folder))
  assert_equal(llm_jax.load_pretrained(folder)[1], params)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("model-00003-of-00003.safetensors", "no such file"),
    ("../hf/model-00001-of-00002.safetensors", "not a file of its folder"),
    ("/etc/passwd", "not a file of its folder"),
    ("..", "not a file of its folder"),
    (3, "not a file of its folder"),
    ("model-00002-of-00002.safetensors", "puts 'model"),
  ],
)
def test_an_index_that_lies_or_leaves_its_folder_is_refused(saved, name, message):
  folder, _, _ = saved
  where = shard(folder)
  index(folder, {**where, sorted(where)[0]: name})
  with pytest.raises(UserError, match=r"model\.safetensors\.index\.json") as error:
    llm_jax.load_pretrained(folder)
  assert message in str(error.value) or "puts" in str(error.value)


# ----------------------------------------------------------------------- values and their places


def test_the_files_dtype_is_kept_or_cast(saved):
  folder, model, params = saved
  half = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), params)
  llm_jax.save_pretrained(folder, model, half)
  _, kept = llm_jax.load_pretrained(folder)
  assert {x.dtype.name for x in jax.tree.leaves(kept)} == {"bfloat16"}
  assert_equal(kept, half)
  _, cast = llm_jax.load_pretrained(folder, param_dtype="float32")
  assert_equal(cast, jax.tree.map(lambda x: x.astype(np.float32), half))
  with pytest.raises(UserError, match="Did you mean 'float32'"):
    llm_jax.load_pretrained(folder, param_dtype="float31")


def test_a_model_without_head_is_read_without_the_prefix(saved):
  folder, _, params = saved
  bare = lambda t: {k.removeprefix("model."): v for k, v in t.items() if k != "lm_head.weight"}
  change(folder, bare, architectures=["LlamaModel"])
  headless, found = llm_jax.load_pretrained(folder)
  assert headless.spec.heads == ()
  assert_equal(found, {name: params[name] for name in ("embed", "stack")})


def test_on_a_mesh_each_device_gets_its_part_and_nothing_whole_is_made(saved, monkeypatch):
  folder, _, params = saved
  mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  made, aligned = [], tables._aligned

  def recorded(shape, dtype):
    made.append(shape)
    return aligned(shape, dtype)

  monkeypatch.setattr(tables, "_aligned", recorded)
  _, found = llm_jax.load_pretrained(folder, mesh=mesh)
  assert_equal(found, params)
  kernel = found["stack"]["0"]["1_mlp"]["in"]["kernel"]
  assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, "fsdp", "tensor")
  assert {s.data.shape for s in kernel.addressable_shards} == {(2, 8, 12)}
  assert (2, 8, 12) in made
  assert kernel.shape not in made


def test_saving_leaves_no_copy_of_sharded_parameters_on_the_host(saved, tmp_path):
  folder, model, _ = saved
  mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  _, found = llm_jax.load_pretrained(folder, mesh=mesh)
  llm_jax.save_pretrained(tmp_path / "again", model, found)
  assert [x.shape for x in jax.tree.leaves(found) if x._npy_value is not None] == []
  assert (tmp_path / "again" / files.SINGLE).read_bytes() == (folder / files.SINGLE).read_bytes()


def test_tensors_of_two_half_precisions_meet_in_float32(saved):
  folder, _, params = saved
  other = QUERY.replace("layers.1", "layers.0")
  cast = {QUERY: ml_dtypes.bfloat16, other: np.float16}
  change(folder, lambda t: {name: x.astype(cast.get(name, x.dtype)) for name, x in t.items()})
  _, found = llm_jax.load_pretrained(folder)
  kernel = found["stack"]["0"]["0_attention"]["q"]["kernel"]
  assert kernel.dtype == np.float32
  np.testing.assert_allclose(kernel, params["stack"]["0"]["0_attention"]["q"]["kernel"], rtol=1e-2)


def test_loading_takes_the_parameters_and_one_tensor_of_memory(saved, tmp_path):
  clear, status = pathlib.Path("/proc/self/clear_refs"), pathlib.Path("/proc/self/status")
  if not os.access(clear, os.W_OK):
    pytest.skip("the kernel does not reset the peak of a process's memory")

  def memory(name):
    [line] = [line for line in status.read_text().splitlines() if line.startswith(name)]
    return 1024 * int(line.split()[1])

  model = llama(d_model=512, d_ff=2048, repeats=8)
  params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), build.abstract_params(model))
  size = sum(x.nbytes for x in jax.tree.leaves(params))
  assert size > 1e8
  llm_jax.save_pretrained(tmp_path, model, params)
  del params
  llm_jax.load_pretrained(saved[0])  # what is allocated once stays
  clear.write_text("5")
  before = memory("VmRSS")
  _, found = llm_jax.load_pretrained(tmp_path)
  assert memory("VmHWM") - before < 1.2 * size
  del found


def test_a_parameter_is_handed_to_jax_without_a_copy(saved, monkeypatch):
  made, aligned = {}, tables._aligned

  def recorded(shape, dtype):
    array = aligned(shape, dtype)
    made[array.ctypes.data] = array  # kept alive, or the next may lie at the same address
    return array

  monkeypatch.setattr(tables, "_aligned", recorded)
  _, params = llm_jax.load_pretrained(saved[0])
  assert {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)} == made.keys()


# -------------------------------------------------------------------------------- the way out


def test_every_family_has_an_answer_for_every_experiment():
  held = {}
  for path in config_schema.EXPERIMENTS.rglob("*.py"):
    name = str(path.relative_to(config_schema.EXPERIMENTS).with_suffix(""))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for mode in ("", *getattr(module, "SIZES", ())):
      model = module.get_config(mode).to_dict().get("model")
      if model:
        try:
          of_classes = any(head.endswith("classification") for head in model["heads"])
          sizes = {"vocab_size": 99, "num_classes": 2 * of_classes}
          family, _ = families.of_spec(llm_jax.build({**model, **sizes}).spec)
          held[name, mode] = family.__name__.rpartition(".")[2]
        except UserError as error:
          assert "No published format" in str(error)
  assert held["llama", ""] == held["llama", "3.2-1b"] == "llama"
  assert held["mistral", "7b"] == "mistral"
  assert held["mixtral", ""] == "mixtral"
  assert held["qwen2", "72b"] == "qwen2"
  assert held["qwen3", "0.6b"] == "qwen3"
  assert ("hybrid", "") not in held


def test_a_model_of_no_family_is_refused_with_what_the_nearest_cannot_say(tmp_path):
  model = llama(logit_soft_cap=30.0)
  with pytest.raises(UserError, match=r"nearest is llama, .* logit_soft_cap 30\.0 \(there 0\.0\)"):
    llm_jax.save_pretrained(tmp_path / "out", model, numbered(model))
  assert not (tmp_path / "out").exists()


def test_parameters_that_are_not_the_models_are_refused(tmp_path):
  model = llama()
  params = numbered(model)
  with pytest.raises(UserError, match="stack/0/1_mlp/gate/kernel"):
    llm_jax.save_pretrained(tmp_path / "out", llama(d_ff=32), params)
  with pytest.raises(UserError, match="'head/out/kernel'"):
    params.pop("head")
    llm_jax.save_pretrained(tmp_path / "out", model, params)
  assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------- a trained checkpoint


def test_a_trained_llama_reproduces_its_logits_and_200_greedy_tokens(shared_folder):
  folder = shared_folder / "checkpoints" / "stories260K"
  model, params = llm_jax.load_pretrained(folder)
  with np.load(folder / "golden.npz") as golden:
    ids_T, logits_TV = golden["greedy_ids"], golden["logits_first32"]
  found = model.apply({"params": params}, jnp.asarray(ids_T[None, :32])).logits[0]
  np.testing.assert_allclose(found, logits_TV, atol=1e-4, rtol=0)
  made = llm_jax.generate(model, params, [[int(ids_T[0])]], max_new_tokens=200)
  assert made[0] == ids_T[1:].tolist()
