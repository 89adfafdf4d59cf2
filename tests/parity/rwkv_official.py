"""The official side of RWKV 5.2, 6 and 7: what the PyPI package `rwkv` makes of drawn weights.

The package runs without gradients. They are taken through its own functions for a layer, with the
embedding, the norms before the layers and the head around them: the same logits, checked.

Torch and the package are imported only where numbers are asked for.

Legend: T position, L layer, H heads, K head size, V vocabulary.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import io
import os
import pathlib
import tempfile
import warnings

import numpy as np

MARGIN = 1e-4  # between the two likeliest tokens: closer, and rounding decides which is greedy


def version() -> str:
  return f"rwkv {importlib.metadata.version('rwkv')}"


@contextlib.contextmanager
def _environment(v7: bool):
  """The package reads its options from the environment, on import and later."""
  options = {"RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0", "RWKV_V7_ON": "1" if v7 else "0"}
  before = {name: os.environ.get(name) for name in options}
  os.environ.update(options)
  try:
    yield
  finally:
    for name, value in before.items():
      os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@functools.cache
def _package(v7: bool):
  """The package's model.py, imported afresh: version 7 makes another module of it."""
  folder = importlib.util.find_spec("rwkv").submodule_search_locations[0]
  spec = importlib.util.spec_from_file_location(f"rwkv_{v7}", pathlib.Path(folder) / "model.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def numbers(number: str, tensors: dict, tokens_T, prompt, greedy: int) -> dict[str, np.ndarray]:
  """What the package makes of a checkpoint.

  Args:
    number: the version, "5.2".
    tensors: {official name: float32 array}.
    tokens_T: of which the logits (T, V), the last states (L, H, K, K) (keys before values) and the
      gradients of the mean token loss are taken.
    prompt: continued by `greedy` tokens.

  Returns:
    logits, states, ids, and "gradient/<name>" of every tensor that takes part.
  """
  import torch

  v7, silent = number == "7", contextlib.redirect_stdout(io.StringIO())
  with warnings.catch_warnings(), silent, _environment(v7):
    warnings.simplefilter("ignore")
    package = _package(v7)
    with tempfile.TemporaryDirectory() as folder:
      path = f"{folder}/model"
      # Sorted: the package tells versions apart as it meets the names.
      torch.save({name: torch.tensor(tensors[name]) for name in sorted(tensors)}, f"{path}.pth")
      model = package.RWKV(model=path, strategy="cpu fp32")
    logits_TV, state = model.forward(tokens_T.tolist(), None, full_output=True)
    states = torch.stack(state[1::3])
    found = {
      "logits": logits_TV.numpy().copy(),
      "states": (states.mT if v7 else states).numpy().copy(),
      "ids": np.array(_greedy(model, prompt, greedy)),
    }
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in tensors.items()}
    logits_TV = _forward(number, package, model, leaves, torch.tensor(tokens_T).long())
  np.testing.assert_allclose(logits_TV.detach().numpy(), found["logits"], atol=1e-5)
  loss = torch.nn.functional.cross_entropy(logits_TV[:-1], torch.tensor(tokens_T[1:]).long())
  loss.backward()
  gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
  return found | {f"gradient/{name}": value.numpy() for name, value in gradients.items()}


def _greedy(model, prompt, count):
  logits, state = model.forward(list(prompt), None)
  ids = []
  for _ in range(count):
    best = logits.topk(2).values
    assert best[0] - best[1] > MARGIN, f"two tokens are {best[0] - best[1]:.1e} apart"
    ids.append(int(logits.argmax()))
    logits, state = model.forward(ids[-1:], state)
  return ids


def _forward(number, package, model, z, tokens_T):
  """Logits (T, V), differentiable in z."""
  import torch

  norm = lambda x, name: torch.nn.functional.layer_norm(
    x, x.shape[-1:], z[f"{name}.weight"], z[f"{name}.bias"]
  )
  layers = len({name.split(".")[1] for name in z if name.startswith("blocks.")})
  x = norm(z["emb.weight"], "blocks.0.ln0")[tokens_T]
  first = None
  for i in range(layers):
    own = {n.removeprefix(f"blocks.{i}."): v for n, v in z.items() if n.startswith(f"blocks.{i}.")}
    if number == "7":
      x, first = _layer_7(package, i, own, x, first, norm)
    else:
      x = _layer_56(model, number, own, x)
  return norm(x, "ln_out") @ z["head.weight"].T


def _layer_56(model, number, z, x):
  """Both mixers of a layer of version 5.2 or 6; they add to x themselves."""
  import torch

  heads, size = z["att.time_faaaa"].shape
  att = lambda *names: [z[f"att.{name}"].squeeze() for name in names]
  matrices = lambda part, *names: [z[f"{part}.{name}.weight"].T for name in names]
  norms = lambda *names: [z[f"{name}.{end}"] for name in names for end in ("weight", "bias")]
  previous, state = torch.zeros_like(x[0]), torch.zeros(heads, size, size)
  five = ("key", "value", "receptance", "gate", "output")
  by_head = lambda value: value.reshape(heads, size, 1)
  unused = [x] * 20  # of the quantised matrices
  bonus, decay = by_head(z["att.time_faaaa"]), by_head(z["att.time_decay"])
  if number == "5.2":
    own = att(*(f"time_mix_{letter}" for letter in "kvrg"))
    mix, options = model.att_seq_v5_2, [*own, torch.exp(-torch.exp(decay)), bonus]
  else:
    own = att(*(f"time_maa_{letter}" for letter in "xwkvrg"))
    maps = [z[f"att.time_{name}"] for name in ("maa_w1", "maa_w2", "decay_w1", "decay_w2")]
    mix, options = model.att_seq_v6_0, [*own, *maps, decay, bonus]
  x = mix(
    x, previous, state, *norms("ln1", "att.ln_x"), *options, *matrices("att", *five), *unused
  )[0]
  feed, kind = (model.ffn_seq, "mix") if number == "5.2" else (model.ffn_seq_v6, "maa")
  own = [z[f"ffn.time_{kind}_{letter}"].squeeze() for letter in "kr"]
  three = matrices("ffn", "key", "value", "receptance")
  return feed(x, previous, *norms("ln2"), *own, *three, *unused[:12])[0]


def _layer_7(package, i, z, x, first, norm):
  """Both mixers of a layer of version 7, token by token; and the first layer's values."""
  import torch

  heads, size = z["att.r_k"].shape
  width, ln = heads * size, torch.nn.functional.layer_norm
  mixing = [z[f"att.x_{letter}"].squeeze() for letter in "rwkvag"]
  maps = [
    z[f"att.{letter}{n}"].squeeze() if f"att.{letter}{n}" in z else torch.empty(0)
    for letter, numbers in (("w", "012"), ("a", "012"), ("v", "012"), ("g", "12"))
    for n in numbers
  ]
  own = [z["att.k_k"].squeeze(), z["att.k_a"].squeeze(), z["att.r_k"].flatten()]
  four = [z[f"att.{n}.weight"].T for n in ("receptance", "key", "value", "output")]
  last = [z["att.ln_x.weight"], z["att.ln_x.bias"]]
  previous, state, values, out = torch.zeros(width), torch.zeros(heads, size, size), [], []
  for t in range(len(x)):
    xx = ln(x[t], (width,), z["ln1.weight"], z["ln1.bias"])
    v = torch.empty(width) if first is None else first[t]
    xx, previous, state, v = package.RWKV_x070_TMix_one(
      i, heads, size, xx, previous, v, state, *mixing, *maps, *own, *four, *last
    )
    values.append(v)
    out.append(xx)
  x = x + torch.stack(out)
  previous, out = torch.zeros(width), []
  ffn = [z["ffn.x_k"].squeeze(), z["ffn.key.weight"].T, z["ffn.value.weight"].T]
  for t in range(len(x)):
    xx = ln(x[t], (width,), z["ln2.weight"], z["ln2.bias"])
    xx, previous = package.RWKV_x070_CMix_one(xx, previous, *ffn)
    out.append(xx)
  return x + torch.stack(out), torch.stack(values)
