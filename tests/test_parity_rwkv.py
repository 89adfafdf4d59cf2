"""RWKV 4 to 7 under the official names: the official package's numbers, drawn and trained weights.

The golden files hold the package's numbers; `python -m tests.test_parity_rwkv` makes them (needs
torch and the PyPI package rwkv).

Legend: B batch, T position, L layer, H heads, K head size, V vocabulary.
"""

import functools
import importlib.util
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

import llm_jax
from llm_jax import load_pretrained, save_pretrained
from llm_jax.errors import UserError
from llm_jax.interop import rwkv_official
from llm_jax.interop.fields import Fields
from llm_jax.interop.tables import Table
from llm_jax.models.build import abstract_params, build
from tests.parity import harness
from tests.parity import rwkv_official as official

GOLDEN = pathlib.Path(__file__).parent / "golden"
VERSIONS = ("5.2", "6", "7")
TOKENS, GREEDY = 67, 64  # long enough for the chunked forms
_COMMON = {"vocab_size": 41, "n_embd": 12, "n_layer": 3, "dim_att": 12, "n_head": 3}
SHAPES = {
  "4": {name: value for name, value in _COMMON.items() if name != "n_head"} | {"dim_ffn": 26},
  "5.2": {**_COMMON, "dim_ffn": 20},
  "6": {**_COMMON, "dim_ffn": 22, "mix_rank": 3, "decay_rank": 5},
  "7": {
    **_COMMON,
    "dim_ffn": 28,
    "decay_rank": 5,
    "rate_rank": 4,
    "value_rank": 3,
    "gate_rank": 6,
    "first_value_rank": 0,
  },
}
DRAW = {
  r"time_(decay|first)$": (-0.5, 1.5),
  r"time_faaaa$": (0.5, 0.7),
  r"time_mix_|time_maa_[xwkvrg]$|\.x_[rwkvag]$": (0.5, 0.4),
  r"att\.w0$": (-1.0, 2.0),
  r"att\.[av]0$": (0.0, 1.0),
  r"att\.k_[ka]$": (1.0, 0.3),
  r"att\.r_k$": (0.0, 0.5),
  r"_w[12]$|att\.[wavg][12]$": (0.0, 0.4),
}
every_version = pytest.mark.parametrize("number", VERSIONS)


@functools.cache
def drawn(number) -> tuple[dict, np.ndarray]:
  """Random tensors under the official names, and a row of tokens."""
  fields = {"model_type": "rwkv_official", "version": number, **SHAPES[number]}
  case = harness.Case(f"rwkv-{number}", "", fields, draw=DRAW)
  model = build(rwkv_official.model_config(Fields(fields)))
  expected = flatten_dict(abstract_params(model), sep="/")
  shapes = Table(rwkv_official.weights(model.spec), expected).shapes()
  tensors = {name: harness.draw(case, name, shape) for name, shape in shapes.items()}
  rng = np.random.RandomState(len(number))
  return tensors, rng.randint(0, fields["vocab_size"], TOKENS).astype(np.int32)


@functools.cache
def ours(number) -> dict[str, np.ndarray]:
  """The numbers of `official.numbers`, of our model loaded from a file of the drawn tensors."""
  tensors, tokens_T = drawn(number)
  with tempfile.TemporaryDirectory() as folder:
    save_file(tensors, f"{folder}/model.safetensors")
    model, params = load_pretrained(folder)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def run(params):
      state = model.initial_state(1, TOKENS)
      output = model.apply({"params": params}, tokens_T[None], state=state)
      log_p_TV = jax.nn.log_softmax(output.logits[0, :-1])
      return -log_p_TV[jnp.arange(TOKENS - 1), tokens_T[1:]].mean(), output

    gradients, output = run(params)
    save_pretrained(folder, model, gradients)
    written = load_file(f"{folder}/model.safetensors")
  states = [layer["wkv"][0] for layer in _layer_states(output.state) if "wkv" in layer]
  ids = llm_jax.generate(model, params, [tokens_T[:5].tolist()], max_new_tokens=GREEDY)
  found = {"logits": output.logits[0], "states": jnp.stack(states), "ids": np.array(ids[0])}
  found |= {f"gradient/{name}": value for name, value in written.items()}
  return {name: np.asarray(value) for name, value in found.items()}


def _layer_states(state):
  return [layer for stage in state.layers for block in stage for layer in block.values()]


def theirs(number) -> dict[str, np.ndarray]:
  """The official package's numbers, computed now."""
  tensors, tokens_T = drawn(number)
  return official.numbers(number, tensors, tokens_T, tokens_T[:5].tolist(), GREEDY)


def golden(number) -> dict[str, np.ndarray]:
  """The official package's numbers, as committed; gradients are summaries."""
  with np.load(GOLDEN / f"rwkv{number[0]}.npz") as file:
    arrays = dict(file)
  about = json.loads(str(arrays.pop("about")))
  gradients = dict(zip(about["gradients"], arrays.pop("gradients"), strict=True))
  return arrays | {f"gradient/{name}": value for name, value in gradients.items()}


def compare(found, expected) -> tuple[float, float]:
  """Largest differences of logits and states, and of gradients (relative); equal tokens."""
  assert found["ids"].tolist() == expected["ids"].tolist()
  outputs = max(float(np.abs(found[n] - expected[n]).max()) for n in ("logits", "states"))
  gradients = lambda numbers: {
    name.removeprefix("gradient/"): value
    for name, value in numbers.items()
    if name.startswith("gradient/")
  }
  theirs = gradients(expected)
  made = harness.Numbers({}, theirs, [], summarised=all(v.shape == (5,) for v in theirs.values()))
  mine = harness.Numbers({}, gradients(found), [])
  assert mine.gradients.keys() == theirs.keys()
  return outputs, max(harness.gradient_differences(mine, made, {}).values())


def write_golden(number) -> None:
  numbers = theirs(number)
  names = [n.removeprefix("gradient/") for n in numbers if n.startswith("gradient/")]
  summaries = np.stack([harness.summary(name, numbers[f"gradient/{name}"]) for name in names])
  np.savez_compressed(
    GOLDEN / f"rwkv{number[0]}.npz",
    about=json.dumps({"gradients": names, "version": official.version()}),
    gradients=summaries,
    **{name: numbers[name] for name in ("logits", "states", "ids")},
  )


@functools.cache
def trained(folder, number):
  """Our model of a trained checkpoint, its parameters, and the package's numbers."""
  path = folder / "checkpoints" / f"rwkv{number}-tiny"
  with np.load(path / "golden.npz") as file:
    return *load_pretrained(path), dict(file)


def differences() -> list[tuple]:
  """Rows of the README's table: family, reference, largest differences, trained checkpoint."""
  rows = []
  for number in VERSIONS:
    outputs, gradients = compare(ours(number), theirs(number))
    trained = f"rwkv{number[0]}-tiny"
    rows.append((f"RWKV-{number}", official.version(), outputs, gradients, trained))
  return rows


def assert_equal(differences):
  outputs, gradients = differences
  assert outputs < harness.LOGITS
  assert gradients < harness.GRADIENT


@every_version
def test_logits_states_gradients_and_greedy_tokens_are_those_committed(number):
  assert_equal(compare(ours(number), golden(number)))


@pytest.mark.slow  # as the committed numbers, which the package made
@every_version
def test_logits_states_gradients_and_greedy_tokens_are_the_packages(number):
  for package in ("torch", "rwkv"):
    if importlib.util.find_spec(package) is None:
      pytest.skip(f"needs {package}")
  assert_equal(compare(ours(number), theirs(number)))


@pytest.mark.parametrize("number", "4567")
def test_a_trained_checkpoint_gives_the_packages_logits_and_greedy_tokens(number, shared_folder):
  """In one pass: each greedy token is the likeliest after those before it."""
  model, params, expected = trained(shared_folder, number)
  prompt, ids = expected["greedy_prompt_ids"], expected["greedy_ids"]
  rows, segments = np.zeros((2, 2, len(expected["prompt_ids"])), np.int32)
  for row, tokens in enumerate([expected["prompt_ids"], [*prompt, *ids]]):
    rows[row, : len(tokens)], segments[row, : len(tokens)] = tokens, 1
  call = jax.jit(lambda params: model.apply({"params": params}, rows, segments).logits)
  logits_BTV = call(params)
  np.testing.assert_allclose(logits_BTV[0], expected["logits"], atol=harness.LOGITS)
  likeliest = logits_BTV[1].argmax(-1)[len(prompt) - 1 : len(prompt) + len(ids) - 1]
  assert likeliest.tolist() == ids.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("number", "4567")
def test_a_trained_checkpoint_decodes_the_packages_greedy_tokens(number, shared_folder):
  model, params, expected = trained(shared_folder, number)
  prompt, ids = expected["greedy_prompt_ids"].tolist(), expected["greedy_ids"].tolist()
  assert llm_jax.generate(model, params, [prompt], max_new_tokens=len(ids)) == [ids]


def same_files(first, second):
  a, b = load_file(first), load_file(second)
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("number", ["4", *VERSIONS])
def test_a_file_of_official_names_is_written_as_it_was_read(number, tmp_path):
  save_file(drawn(number)[0], tmp_path / "read.safetensors")
  save_pretrained(tmp_path / "written.safetensors", *load_pretrained(tmp_path / "read.safetensors"))
  same_files(tmp_path / "read.safetensors", tmp_path / "written.safetensors")


def test_maps_for_values_that_the_first_layer_does_not_mix_change_nothing(tmp_path):
  """Some files hold v0, v1 and v2 of the first layer, which no code reads."""
  tensors, tokens_T = drawn("7")
  unused = {f"blocks.0.att.v{n}": tensors[f"blocks.1.att.v{n}"] + 1 for n in range(3)}
  path = tmp_path / "model.safetensors"
  save_file(tensors | unused, path)
  model, params = load_pretrained(path)
  call = jax.jit(lambda params: model.apply({"params": params}, tokens_T[None, :9]).logits[0])
  np.testing.assert_allclose(call(params), golden("7")["logits"][:9], atol=harness.LOGITS)
  save_pretrained(tmp_path / "again", model, params)
  same_files(path, tmp_path / "again/model.safetensors")


def test_a_torch_file_is_read_like_a_safetensors_file(tmp_path):
  torch = pytest.importorskip("torch")
  tensors, _ = drawn("6")
  save_file(tensors, tmp_path / "model.safetensors")
  as_torch = {name: torch.tensor(value) for name, value in tensors.items()}
  torch.save(as_torch, tmp_path / "model.pth")
  _, expected = load_pretrained(tmp_path / "model.safetensors")
  _, params = load_pretrained(tmp_path / "model.pth")
  jax.tree.map(np.testing.assert_array_equal, params, expected)
  torch.save({**as_torch, "emb.weight": pathlib.Path("code")}, tmp_path / "other.pth")
  with pytest.raises(UserError, match="no torch file of named tensors"):
    load_pretrained(tmp_path / "other.pth")


def _without(tensors, name):
  return {there: value for there, value in tensors.items() if there != name}


def _renamed(tensors, old, new):
  return {name.replace(old, new): value for name, value in tensors.items()}


@pytest.mark.parametrize(
  ("number", "change", "culprit"),
  [
    ("5.2", lambda t: {**t, "blocks.0.att.time_decay": np.ones(3, np.float32)}, "5.1"),
    ("5.2", lambda t: {n: v for n, v in t.items() if "gate" not in n}, "version='5'"),
    ("6", lambda t: {n: v for n, v in t.items() if "blocks.1.att.gate" not in n}, "1.att.gate"),
    ("6", lambda t: {n: v for n, v in t.items() if "att.gate" not in n}, "6 .variant"),
    ("7", lambda t: {**t, "blocks.2.ffn.key.weight": t["emb.weight"]}, "blocks.2.ffn.key.weight"),
    ("7", lambda t: {**t, "blocks.0.ffn.s_emb.weight": t["emb.weight"]}, "s_emb"),
    ("7", lambda t: _renamed(t, "emb.weight", "embed.weight"), "no config.json"),
    ("6", lambda t: _without(t, "blocks.0.att.time_maa_w1"), "blocks.0.att.time_maa_w1.*none"),
    ("6", lambda t: _without(t, "blocks.0.att.time_decay_w1"), "blocks.0.att.time_decay_w1.*none"),
    ("7", lambda t: {**t, "emb.weight": t["emb.weight"][0]}, "emb.weight.*its shape is"),
    ("4", lambda t: {**t, "blocks.0.att.key.weight": t["ln_out.bias"]}, "0.att.key.weight.*its"),
    ("7", lambda t: {**t, "blocks.0.att.r_k": t["blocks.0.att.r_k"][:0]}, "att.r_k.*its shape is"),
    ("7", lambda t: {n: v for n, v in t.items() if not n.endswith("att.w1")}, "0.att.w1.*none"),
    ("5.2", lambda t: {**t, "blocks.0.att.time_faaaa": np.ones((5, 4), np.float32)}, "num_heads"),
  ],
)
def test_a_file_of_another_kind_is_refused_with_what_is_wrong(number, change, culprit, tmp_path):
  save_file(change(drawn(number)[0]), tmp_path / "model.safetensors")
  with pytest.raises(UserError, match=culprit):
    load_pretrained(tmp_path)


if __name__ == "__main__":
  for number in VERSIONS:
    write_golden(number)
    print(number, compare(ours(number), theirs(number)), compare(ours(number), golden(number)))
