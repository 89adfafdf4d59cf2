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
  r"time_decay$": (-0.5, 1.5),
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
    def run(params):
      def loss(params):
        logits_TV = model.apply({"params": params}, tokens_T[None]).logits[0]
        chosen = jax.nn.log_softmax(logits_TV[:-1])[jnp.arange(TOKENS - 1), tokens_T[1:]]
        return -chosen.mean(), logits_TV

      state = model.initial_state(1, TOKENS)
      return jax.grad(loss, has_aux=True)(params), model.apply(
        {"params": params}, tokens_T[None], state=state
      )

    (gradients, logits_TV), output = run(params)
    save_pretrained(folder, model, gradients)
    written = load_file(f"{folder}/model.safetensors")
  np.testing.assert_allclose(output.logits[0], logits_TV, atol=1e-4)
  states = [layer["wkv"][0] for layer in _layer_states(output.state) if "wkv" in layer]
  ids = llm_jax.generate(model, params, [tokens_T[:5].tolist()], max_new_tokens=GREEDY)
  found = {"logits": logits_TV, "states": jnp.stack(states), "ids": np.array(ids[0])}
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


@every_version
def test_logits_states_gradients_and_greedy_tokens_are_the_packages(number):
  for package in ("torch", "rwkv"):
    if importlib.util.find_spec(package) is None:
      pytest.skip(f"needs {package}")
  assert_equal(compare(ours(number), theirs(number)))


if __name__ == "__main__":
  for number in VERSIONS:
    write_golden(number)
    print(number, compare(ours(number), theirs(number)), compare(ours(number), golden(number)))
