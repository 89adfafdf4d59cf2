"""Elman, LSTM and GRU against torch.nn: outputs, last states, gradients, parameters in and out.

Ragged rows, a first state that is not zero, and a hidden size that is not the input's. The golden
file holds torch's numbers; `python -m tests.test_parity_torch_recurrent` makes it (needs torch).

Legend: B batch, T position, D model, G gates, H hidden.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from llm_jax.contract import Context
from llm_jax.errors import UserError
from llm_jax.interop.torch_recurrent import from_torch, to_torch
from llm_jax.layers.elman import Elman
from llm_jax.layers.gru import Gru
from llm_jax.layers.lstm import Lstm

GOLDEN = pathlib.Path(__file__).parent / "golden" / "torch_recurrent.npz"
D, H = 7, 5
LENGTHS = (11, 7, 1)
B, T = len(LENGTHS), max(LENGTHS)
FAMILIES = {  # layer, gates, parts of its state
  "RNN": (Elman, 1, "h"),
  "LSTM": (Lstm, 4, "hc"),
  "GRU": (Gru, 3, "h"),
}
every_family = pytest.mark.parametrize("name", FAMILIES)


def drawn(name):
  """Torch's parameters and what is fed: the input, the first state, and the loss's weights."""
  _, gates, parts = FAMILIES[name]
  rng = np.random.RandomState(0)
  shapes = {
    "weight_ih_l0": (gates * H, D),
    "weight_hh_l0": (gates * H, H),
    "bias_ih_l0": (gates * H,),
    "bias_hh_l0": (gates * H,),
  }
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  fed = {"x": draw(B, T, D), "weights": draw(B, T, H)}
  for part in parts:
    fed |= {part: draw(B, H), f"weights_{part}": draw(B, H)}
  return {key: draw(*shape) for key, shape in shapes.items()}, fed


def torchs(name):
  """Torch's numbers: outputs (zero at padding), last state, gradients of all that is drawn."""
  import torch

  tensors, fed = drawn(name)
  parts = FAMILIES[name][2]
  module = getattr(torch.nn, name)(D, H, batch_first=True)
  module.load_state_dict({key: torch.tensor(value) for key, value in tensors.items()})
  leaves = {key: torch.tensor(fed[key], requires_grad=True) for key in ("x", *parts)}
  state = tuple(leaves[part][None] for part in parts)
  packed = torch.nn.utils.rnn.pack_padded_sequence(leaves["x"], LENGTHS, batch_first=True)
  packed, last = module(packed, state if len(parts) > 1 else state[0])
  y, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=T)
  last = dict(zip(parts, last if len(parts) > 1 else (last,), strict=True))
  loss = (y * torch.tensor(fed["weights"])).sum()
  for part, value in last.items():
    loss = loss + (value[0] * torch.tensor(fed[f"weights_{part}"])).sum()
  loss.backward()
  found = {"y": y} | {f"last_{part}": value[0] for part, value in last.items()}
  sources = {**dict(module.named_parameters()), **leaves}
  found |= {f"gradient_{key}": leaf.grad for key, leaf in sources.items()}
  return {key: value.detach().numpy() for key, value in found.items()}


@functools.cache
def golden(name):
  with np.load(GOLDEN) as file:
    return {
      key.removeprefix(f"{name}/"): file[key] for key in file.files if key.startswith(f"{name}/")
    }


@functools.cache
def ours(name):
  """The same numbers of our layer, its way out set to hand h over as it is."""
  layer_class, _, parts = FAMILIES[name]
  tensors, fed = drawn(name)
  layer = layer_class(hidden_size=H)
  out = {"kernel": jnp.eye(H, D), "bias": jnp.zeros(D)}
  segments_BT = (np.arange(T)[None] < np.array(LENGTHS)[:, None]).astype(np.int32)
  positions_BT = np.where(segments_BT > 0, np.arange(T)[None] + 3, -1)  # goes on after 3 tokens
  context = Context(jnp.asarray(positions_BT), jnp.asarray(segments_BT))

  def loss(params, leaves):
    state = {part: leaves[part] for part in parts}
    y_BTD, last = layer.apply({"params": {**params, "out": out}}, leaves["x"], context, state)
    y_BTH = jnp.where(context.real_BT[:, :, None], y_BTD[:, :, :H], 0)
    total = (y_BTH * fed["weights"]).sum()
    total += sum((last[part] * fed[f"weights_{part}"]).sum() for part in parts)
    return total, {"y": y_BTH} | {f"last_{part}": last[part] for part in parts}

  leaves = {key: jnp.asarray(fed[key]) for key in ("x", *parts)}
  gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
  (dparams, dleaves), found = gradient(from_torch(tensors)[0], leaves)
  gradients = {**to_torch([dparams]), **dleaves}
  if name != "GRU":  # one bias here: torch's two have the same gradient
    gradients["bias_hh_l0"] = gradients["bias_ih_l0"]
  found |= {f"gradient_{key}": value for key, value in gradients.items()}
  return {key: np.asarray(value) for key, value in found.items()}


def differences(reference=golden):
  """Rows of the README's table: family, reference, largest differences, trained checkpoint."""
  rows = []
  for name in FAMILIES:
    theirs, version = reference(name), str(golden(name)["version"])
    error = {
      key: np.abs(ours(name)[key] - value).max()
      / (np.abs(value).max() if key.startswith("gradient_") else 1)
      for key, value in theirs.items()
      if key != "version"
    }
    outputs = max(value for key, value in error.items() if not key.startswith("gradient_"))
    gradients = max(value for key, value in error.items() if key.startswith("gradient_"))
    label = {"RNN": "Elman"}.get(name, name)
    rows.append((label, f"{version}, torch.nn.{name}", float(outputs), float(gradients), ""))
  return rows


@every_family
@pytest.mark.parametrize("source", ["golden", "live"])
def test_outputs_states_and_gradients_are_torchs(name, source):
  if source == "live":
    pytest.importorskip("torch")
  theirs = dict((golden if source == "golden" else torchs)(name))
  theirs.pop("version", None)
  assert set(theirs) == set(ours(name))
  for key, value in theirs.items():
    assert np.abs(value).max() > 0.1, f"{key} says nothing"
    tolerance = 1e-5 * max(1.0, float(np.abs(value).max()))
    np.testing.assert_allclose(ours(name)[key], value, rtol=0, atol=tolerance, err_msg=key)


@every_family
def test_parameters_go_to_torch_and_come_back_bit_for_bit(name):
  layer = FAMILIES[name][0]
  tensors, _ = drawn(name)
  [params] = from_torch(tensors)
  back = to_torch([params])
  assert {key: a.shape for key, a in back.items()} == {key: a.shape for key, a in tensors.items()}
  for key in ("weight_ih_l0", "weight_hh_l0"):
    np.testing.assert_array_equal(back[key], tensors[key])
  total = tensors["bias_ih_l0"] + tensors["bias_hh_l0"]
  np.testing.assert_array_equal(back["bias_ih_l0"] + back["bias_hh_l0"], total)
  jax.tree.map(np.testing.assert_array_equal, from_torch(back)[0], params)
  context = Context(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32))
  made = jax.eval_shape(layer(hidden_size=H).init, jax.random.key(0), jnp.ones((1, 1, D)), context)
  expected = dict(nn.unbox(made["params"]))
  expected.pop("out")
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)


@every_family
def test_torch_opens_what_we_write(name):
  torch = pytest.importorskip("torch")
  tensors, fed = drawn(name)
  second = {key.replace("l0", "l1"): a for key, a in tensors.items()}
  second["weight_ih_l1"] = second["weight_hh_l1"]  # reads the first layer's h
  written = to_torch(from_torch({**second, **tensors}))
  results = []
  for state_dict in ({**tensors, **second}, written):
    module = getattr(torch.nn, name)(D, H, num_layers=2)
    module.load_state_dict({key: torch.tensor(value) for key, value in state_dict.items()})
    results.append(module(torch.tensor(fed["x"]))[0].detach().numpy())
  np.testing.assert_allclose(results[0], results[1], atol=1e-6)


def test_a_network_without_biases_has_zeros_for_them():
  tensors, _ = drawn("LSTM")
  [params] = from_torch({key: a for key, a in tensors.items() if "weight" in key})
  np.testing.assert_array_equal(params["bias"], np.zeros((4, H)))


@pytest.mark.parametrize(
  ("change", "culprit"),
  [
    ({"weight_ih_l0_reverse": np.zeros((4 * H, D))}, "weight_ih_l0_reverse"),
    ({"weight_hr_l0": np.zeros((3, H))}, "weight_hr_l0"),
    ({"weight_hh_l0": np.zeros((2 * H, H))}, "weight_hh_l0"),
    ({"weight_ih_l0": np.zeros((3 * H, D))}, "weight_ih_l0"),
    ({"bias_hh_l0": np.zeros(3 * H)}, "bias_hh_l0"),
    ({"weight_ih_l2": np.zeros((4 * H, H))}, "weight_ih_l1"),
  ],
)
def test_parameters_that_have_no_counterpart_are_refused_by_name(change, culprit):
  tensors, _ = drawn("LSTM")
  with pytest.raises(UserError, match=culprit):
    from_torch(tensors | change)


if __name__ == "__main__":
  import torch

  arrays = {f"{name}/{key}": a for name in FAMILIES for key, a in torchs(name).items()}
  arrays |= {
    f"{name}/version": np.array(f"torch {torch.__version__.split('+')[0]}") for name in FAMILIES
  }
  GOLDEN.parent.mkdir(exist_ok=True)
  np.savez_compressed(GOLDEN, **arrays)
