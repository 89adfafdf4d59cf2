"""torch.nn.RNN, LSTM and GRU: their parameters, to and from those of our recurrent layers.

Legend: D model (torch's input size), G gates, H hidden, I = H of the step before.
"""

import re

import numpy as np
from einops import rearrange

from llm_jax.errors import UserError

_NAME = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh)_l(\d+)")
_GRU, _LSTM = 3, 4  # gates, which tell the three apart


def from_torch(tensors: dict[str, np.ndarray]) -> list[dict]:
  """A state_dict of torch.nn.RNN (tanh), LSTM or GRU as the parameters of our layers.

  `out`, the layer's way back to the residual stream, has no counterpart in torch and is left out:
  merge the result into a layer's own parameters, `{**params, **from_torch(tensors)[0]}`.

  Args:
    tensors: numpy arrays under torch's names: weight_ih_l0 (G H, D), weight_hh_l0 (G H, I) and,
      if there are biases, bias_ih_l0 and bias_hh_l0 (G H,); likewise l1, l2 and so on.

  Returns:
    One dict for each of torch's layers: `input/kernel` and `recurrent_kernel`, and `bias` (Elman,
    LSTM: the sum of torch's two, which act as one) or `input/bias` and `recurrent_bias` (GRU).
    Missing biases are zeros.

  Raises:
    UserError: a name that is not of this form (bidirectional, projected), one that is missing, or
      a shape that does not fit.
  """
  layers: dict[int, dict] = {}
  for name, tensor in tensors.items():
    match = _NAME.fullmatch(name)
    if match is None:
      raise UserError(
        f"torch parameter {name!r} has no counterpart here: expected weight_ih_l0, weight_hh_l0, "
        "bias_ih_l0, bias_hh_l0 (and l1, ...) of a unidirectional network without projections."
      )
    layers.setdefault(int(match[2]), {})[match[1]] = np.asarray(tensor)
  return [_layer_from_torch(layers.get(n, {}), n) for n in range(max(layers, default=0) + 1)]


def _layer_from_torch(tensors, number):
  for name in ("weight_ih", "weight_hh"):
    if name not in tensors:
      raise UserError(f"torch parameter {name}_l{number} is missing.")
  features, hidden = tensors["weight_hh"].shape
  gates = features // hidden
  if gates not in (1, _GRU, _LSTM) or features != gates * hidden:
    raise UserError(
      f"weight_hh_l{number} is {features, hidden}: expected (G H, H), G of 1, {_GRU} or {_LSTM}."
    )
  for name, tensor in tensors.items():
    if len(tensor) != features or tensor.ndim != (2 if name.startswith("weight") else 1):
      raise UserError(f"{name}_l{number} is {tensor.shape}: its first axis must be {features}.")
  zeros = np.zeros(features, tensors["weight_hh"].dtype)
  inner, outer = tensors.get("bias_ih", zeros), tensors.get("bias_hh", zeros)
  params = {
    "input": {"kernel": _matrix(tensors["weight_ih"], gates)},
    "recurrent_kernel": _matrix(tensors["weight_hh"], gates),
  }
  if gates != _GRU:
    return {**params, "bias": _vector(inner + outer, gates)}
  params["input"]["bias"] = _vector(inner, gates)
  return {**params, "recurrent_bias": _vector(outer, gates)}


def to_torch(layers: list[dict]) -> dict[str, np.ndarray]:
  """The inverse of `from_torch`: parameters of Elman, LSTM or GRU layers as a torch state_dict.

  Args:
    layers: the parameters of each of torch's layers; `out` is not read.

  Returns:
    numpy arrays under torch's names. Where there is one bias here (Elman, LSTM) it becomes
    bias_ih, and bias_hh is zeros.
  """
  tensors = {}
  for number, params in enumerate(layers):
    bias = params["bias"] if "bias" in params else params["input"]["bias"]
    recurrent_bias = params.get("recurrent_bias", np.zeros_like(bias))
    arrays = {
      "weight_ih": _flat(params["input"]["kernel"]).T,
      "weight_hh": _flat(params["recurrent_kernel"]).T,
      "bias_ih": np.asarray(bias).reshape(-1),
      "bias_hh": np.asarray(recurrent_bias).reshape(-1),
    }
    tensors |= {f"{name}_l{number}": np.ascontiguousarray(a) for name, a in arrays.items()}
  return tensors


def _matrix(tensor, gates):
  """(G H, D) -> (D, G, H); one gate has no axis."""
  return tensor.T if gates == 1 else rearrange(tensor, "(g h) d -> d g h", g=gates)


def _vector(tensor, gates):
  """(G H,) -> (G, H); one gate has no axis."""
  return tensor if gates == 1 else rearrange(tensor, "(g h) -> g h", g=gates)


def _flat(kernel):
  """(D, G, H) or (D, H) -> (D, G H)."""
  return np.asarray(kernel).reshape(len(kernel), -1)
