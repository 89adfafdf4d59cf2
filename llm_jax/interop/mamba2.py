"""Mamba-2: the names, shapes and config of its published checkpoints.

Layouts: d model, i inner, f outputs of the first projection, k taps.

Source: Dao & Gu 2024, arXiv:2405.21060; transformers' `mamba2`.
"""

import math

from llm_jax.errors import UserError
from llm_jax.interop import mamba
from llm_jax.interop.weights import entries, norm_weights
from llm_jax.models import spec as specs

MODEL_TYPES = ("mamba2",)
_INFINITY = {"__float__": "Infinity"}  # as transformers 5 writes it; older files have a bare word

aliases, rename = mamba.aliases, mamba.rename


def model_config(fields):
  """The model of a config.json."""
  stream = mamba.stream(fields, "mamba2", tied=False)
  mixer = mamba.mixer_options(fields)
  head_dim = fields.take("head_dim", 64)
  fields.require("num_heads", mixer["expand"] * stream["d_model"] // head_dim)
  # Published files say norm_before_gate=true, but all that reads them gates before the norm.
  fields.ignore("chunk_size", "time_step_rank", "time_step_scale", "norm_before_gate")
  return specs.model_config(
    **stream,
    layers={
      "mamba2": {
        **mixer,
        "d_state": fields.take("state_size", 128),
        "head_dim": head_dim,
        "num_groups": fields.take("n_groups", 8),
        "dt_limits": _limits(fields.take("time_step_limit", (0.0, math.inf), kind=object)),
        "norm_epsilon": stream["norm_epsilon"],
      }
    },
  )


def _limits(values):
  try:
    low, high = (math.inf if value == _INFINITY else float(value) for value in values)
  except (TypeError, ValueError):
    raise UserError(f"config.json: time_step_limit={values!r} should be two numbers.") from None
  return () if (low, high) == (0.0, math.inf) else (low, high)


def published_config(spec):
  """The config.json of a model; None where it is no plain stack of this layer."""
  shared = mamba.published(spec, "mamba2", "Mamba2ForCausalLM")
  if shared is None:
    return None
  mixer = spec.layers["mamba2"]
  limits = [_INFINITY if value == math.inf else value for value in mixer["dt_limits"]]
  return {
    **shared,
    "state_size": mixer["d_state"],
    "head_dim": mixer["head_dim"],
    "num_heads": mixer["expand"] * spec.d_model // mixer["head_dim"],
    "n_groups": mixer["num_groups"],
    **({"time_step_limit": limits} if limits else {}),
  }


def weights(spec):
  """The table."""
  rows = mamba.stream_weights(spec)
  for entry in entries(spec.decoder_stages, per_layer=1):
    at, fields = "backbone.layers.{}.mixer", spec.layers[entry.name]
    rows += norm_weights(entry.norm, "backbone.layers.{}.norm", entry.numbers)
    rows += [entry.weight(name, f"{at}.{name}") for name in ("A_log", "D", "dt_bias")]
    rows += norm_weights(f"{entry.path}/norm", f"{at}.norm", entry.numbers)
    rows.append(entry.weight("in_proj/kernel", f"{at}.in_proj.weight", "f d -> d f"))
    rows += mamba.around_weights(entry, at, fields)
    if fields["use_bias"]:
      rows.append(entry.weight("in_proj/bias", f"{at}.in_proj.bias"))
  return rows
