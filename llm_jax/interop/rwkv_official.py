"""RWKV 4, 5.2, 6 and 7 under their authors' names: files of tensors alone, without a config.json.

Versions and sizes follow from the tensors' names and shapes. Layouts: v vocabulary, d model,
h heads, k head size, r rank, m the five mixtures, n and o outputs and inputs of a matrix.

Source: the files of BlinkDL (huggingface.co/BlinkDL) and the PyPI package `rwkv`, which reads them.
"""

from llm_jax.errors import UserError
from llm_jax.interop.weights import entries, norm_weights, weight
from llm_jax.models import spec as specs

MODEL_TYPES = ("rwkv_official",)
IGNORED = (
  r"blocks\.0\.att\.v[012]",
)  # RWKV-7's first layer mixes no values, but files may hold them
PATTERNS = {
  "4": ("rwkv4_time_mix", "rwkv4_channel_mix"),
  "5.2": ("rwkv5_time_mix", "rwkv4_channel_mix"),
  "6": ("rwkv6_time_mix", "rwkv6_channel_mix"),
  "7": ("rwkv7_time_mix", "rwkv7_channel_mix"),
}
# RWKV-7's first layer mixes no values. Files may hold its v0, v1 and v2 all the same; where they do
# not, it is a variant of its own.
_FIRST = "rwkv7_first_time_mix"
_RANKS = {"decay_rank": "w", "rate_rank": "a", "value_rank": "v", "gate_rank": "g"}


def recognise(shapes):
  """What stands for a config.json, from {name: shape}; None if these are other names."""
  att, ffn = "blocks.0.att.", "blocks.0.ffn."
  if not {"emb.weight", f"{att}key.weight", f"{ffn}key.weight"} <= set(shapes):
    return None
  version = _version(shapes, att)
  vocab, width = _matrix(shapes, "emb.weight")
  found = {
    "model_type": "rwkv_official",
    "version": version,
    "vocab_size": vocab,
    "n_embd": width,
    "n_layer": len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
    "dim_att": _matrix(shapes, f"{att}key.weight")[0],
    "dim_ffn": _matrix(shapes, f"{ffn}key.weight")[0],
  }
  if version in ("5.2", "6", "7"):
    found["n_head"] = _matrix(shapes, f"{att}r_k" if version == "7" else f"{att}time_faaaa")[0]
  if version == "6":
    found["mix_rank"] = _matrix(shapes, f"{att}time_maa_w1")[1] // 5
    found["decay_rank"] = _matrix(shapes, f"{att}time_decay_w1")[1]
  if version == "7":
    for field, letter in _RANKS.items():
      names = (f"blocks.1.att.{letter}1", f"{att}{letter}1")
      name = next((name for name in names if name in shapes), None)
      if name is None and letter != "v":  # only values need no map, in a model of one layer
        name = names[1]
      found[field] = _matrix(shapes, name)[1] if name else 0
    first = f"{att}v1"
    found["first_value_rank"] = _matrix(shapes, first)[1] if first in shapes else 0
  return found


def _matrix(shapes, name):
  """The shape of a tensor that must be there and have two axes."""
  found = shapes.get(name)
  if found is None or len(found) != 2 or 0 in found:
    there = "there is none" if found is None else f"its shape is {found}"
    raise UserError(f"Its names are RWKV's own, so {name!r} should be a matrix; {there}.")
  return found


def _version(shapes, att):
  """As the official package tells versions apart."""
  if f"{att}r_k" in shapes:
    return "7"
  if f"{att}time_maa_x" in shapes:
    return "6" if f"{att}gate.weight" in shapes and f"{att}time_faaaa" in shapes else "6 (variant)"
  if f"{att}ln_x.weight" not in shapes:
    return "4"
  decay = shapes.get(f"{att}time_decay", ())
  channels = len(decay) > 1 and decay[1] > 1
  if f"{att}gate.weight" not in shapes:
    return "5"
  return "5.2" if channels and f"{att}time_faaaa" in shapes else "5.1"


def model_config(fields):
  """The `model` part of a config, from what `recognise` found."""
  fields.require("version", *PATTERNS)
  version, width = fields.take("version", kind=str), fields.take("n_embd")
  fields.require("dim_att", width)
  pattern = PATTERNS[version]
  time, channel = {}, {"d_ff": fields.take("dim_ffn", least=0)}  # 0: as wide as usual
  if version != "4":
    time["num_heads"] = fields.take("n_head")
  ranks = {"6": ("mix_rank", "decay_rank"), "7": tuple(_RANKS)}.get(version, ())
  time |= {name: fields.take(name, least=0) for name in ranks}
  layers = dict(zip(pattern, (time, channel), strict=True))
  depth = {"pattern": pattern, "repeats": fields.take("n_layer")}
  if version == "7" and fields.take("first_value_rank", least=0) != time["value_rank"]:
    fields.require("first_value_rank", 0)
    depth = {"stages": stages_7(depth["repeats"])}
    layers[_FIRST] = {"type": pattern[0], **time, "value_rank": 0}
  return specs.model_config(
    vocab_size=fields.take("vocab_size"),
    d_model=width,
    embedding_norm=True,
    tie_embeddings=False,
    layers=layers,
    **depth,
  )


def stages_7(layers):
  """RWKV-7's stages where the first layer has no maps to mix values by."""
  time, channel = PATTERNS["7"]
  stages = (((_FIRST, channel), 1), ((time, channel), layers - 1))
  return stages[: 1 + (layers > 1)]


def published_config(spec):
  """What `recognise` would find in the model's file; None where a layer is of no version."""
  used = {name for stage, _ in spec.decoder_stages for name in specs.branches(stage)}
  pattern_of = lambda names: {"rwkv7_time_mix" if name == _FIRST else name for name in names}
  version = next((v for v, names in PATTERNS.items() if set(names) == pattern_of(used)), None)
  if version is None or spec.kind != "decoder":
    return None
  first, channel = (
    dict(spec.layers[name]) for name in specs.branches(spec.decoder_stages[0][0])[:2]
  )
  time = dict(spec.layers.get(PATTERNS[version][0], first))
  fields = {
    "model_type": "rwkv_official",
    "version": version,
    "vocab_size": spec.vocab_size,
    "n_embd": spec.d_model,
    "n_layer": sum(n * len(specs.branches(stage)) // 2 for stage, n in spec.decoder_stages),
    "dim_att": spec.d_model,
    "dim_ffn": channel["d_ff"],
  }
  if version != "4":
    fields["n_head"] = time["num_heads"]
  if version == "7":
    fields["first_value_rank"] = first["value_rank"]
  return fields | {name: value for name, value in time.items() if name.endswith("_rank")}


def weights(spec):
  """Every parameter and its tensors."""
  table = [
    weight("embed/tokens", "emb.weight"),
    *norm_weights("embed/norm", "blocks.0.ln0", bias=True),
    *norm_weights("stack/final_norm", "ln_out", bias=True),
    weight("head/out/kernel", "head.weight", "v d -> d v"),
  ]
  for entry in entries(spec.decoder_stages, per_layer=2):
    table += norm_weights(entry.norm, f"blocks.{{}}.ln{entry.slot + 1}", entry.numbers, True)
    fields = spec.layers[entry.name]
    table += _WEIGHTS[entry.name](entry, fields.get("num_heads"))
  return table


def _matrices(entry, *names):
  part = "att" if entry.slot == 0 else "ffn"
  return [
    entry.weight(f"{name}/kernel", f"blocks.{{}}.{part}.{name}.weight", "n o -> o n")
    for name in names
  ]


def _vectors(entry, *names):
  part = "att" if entry.slot == 0 else "ffn"
  return [entry.weight(name, f"blocks.{{}}.{part}.{name}", "1 1 d -> d") for name in names]


def _headed(entry, heads, *names):
  """The matrices into and out of the heads, and the norm of each."""
  table = [
    entry.weight(f"{name}/kernel", f"blocks.{{}}.att.{name}.weight", "(h k) d -> d h k", h=heads)
    for name in ("receptance", "key", "value", *names)
  ]
  there = "blocks.{}.att.output.weight"
  table.append(entry.weight("output/kernel", there, "d (h k) -> h k d", h=heads))
  for name, end in (("scale", "weight"), ("bias", "bias")):
    table.append(
      entry.weight(f"ln_x/{name}", f"blocks.{{}}.att.ln_x.{end}", "(h k) -> h k", h=heads)
    )
  return table


def _time_mix_4(entry, heads):
  own = [entry.weight(n, f"blocks.{{}}.att.{n}") for n in ("time_decay", "time_first")]
  mixed = _vectors(entry, "time_mix_k", "time_mix_v", "time_mix_r")
  return own + mixed + _matrices(entry, "receptance", "key", "value", "output")


def _channel_mix_4(entry, heads):
  return _vectors(entry, "time_mix_k", "time_mix_r") + _matrices(
    entry, "key", "receptance", "value"
  )


def _time_mix_5(entry, heads):
  own = [entry.weight(n, f"blocks.{{}}.att.{n}") for n in ("time_decay", "time_faaaa")]
  mixed = _vectors(entry, *(f"time_mix_{letter}" for letter in "kvrg"))
  return own + mixed + _headed(entry, heads, "gate")


def _time_mix_6(entry, heads):
  att, options = "blocks.{}.att.", {"h": heads}
  return [
    *_vectors(entry, *(f"time_maa_{letter}" for letter in "xwkvrg")),
    entry.weight("time_maa_w1", f"{att}time_maa_w1", "d (m r) -> d m r", m=5),
    entry.weight("time_maa_w2", f"{att}time_maa_w2"),
    entry.weight("time_decay", f"{att}time_decay", "1 1 (h k) -> h k", **options),
    entry.weight("time_decay_w1", f"{att}time_decay_w1"),
    entry.weight("time_decay_w2", f"{att}time_decay_w2", "r (h k) -> r h k", **options),
    entry.weight("time_faaaa", f"{att}time_faaaa"),
    *_headed(entry, heads, "gate"),
  ]


def _channel_mix_6(entry, heads):
  return _vectors(entry, "time_maa_k", "time_maa_r") + _matrices(
    entry, "key", "receptance", "value"
  )


def _time_mix_7(entry, heads):
  att, mixes = "blocks.{}.att.", entry.name != _FIRST
  table = _vectors(entry, *(f"x_{letter}" for letter in "rwkvag"))
  for name in ("w0", "a0", *(["v0"] if mixes else []), "k_k", "k_a"):
    table.append(entry.weight(name, att + name, "1 1 (h k) -> h k", h=heads))
  for letter in "wavg" if mixes else "wag":
    table.append(entry.weight(f"{letter}1", f"{att}{letter}1"))
    table.append(entry.weight(f"{letter}2", f"{att}{letter}2", "r (h k) -> r h k", h=heads))
  return [*table, entry.weight("r_k", f"{att}r_k"), *_headed(entry, heads)]


def _channel_mix_7(entry, heads):
  return _vectors(entry, "x_k") + _matrices(entry, "key", "value")


_WEIGHTS = {
  "rwkv4_time_mix": _time_mix_4,
  "rwkv4_channel_mix": _channel_mix_4,
  "rwkv5_time_mix": _time_mix_5,
  "rwkv6_time_mix": _time_mix_6,
  "rwkv6_channel_mix": _channel_mix_6,
  "rwkv7_time_mix": _time_mix_7,
  _FIRST: _time_mix_7,
  "rwkv7_channel_mix": _channel_mix_7,
}
