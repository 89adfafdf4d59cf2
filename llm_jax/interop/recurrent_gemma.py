"""RecurrentGemma: the names, shapes and config of its published checkpoints.

Source: De et al. 2024, arXiv:2402.19427; Botev et al. 2024, arXiv:2404.07839; transformers'
`recurrent_gemma`. Scales of norms are stored minus one.
"""

from llm_jax.errors import UserError
from llm_jax.interop.fields import gated, published_activation, published_rope, rope
from llm_jax.interop.llama import aliases, causal_heads, rename  # noqa: F401
from llm_jax.interop.weights import attention_weights, entries, norm_weights, stages_of, weight
from llm_jax.models import spec as specs
from llm_jax.models.spec import branches

MODEL_TYPES = ("recurrent_gemma",)
IGNORED = (r".*\.rotary_emb\.inv_freq", r"model\.normalizer")
_MIXERS = {"recurrent": "rglru", "attention": "attention"}
_ACTIVATION = "gelu_pytorch_tanh"  # of the recurrent block too


def model_config(fields):
  """The `model` part of a config, from the fields of a published one."""
  fields.require("hidden_activation", _ACTIVATION)
  fields.require("embeddings_scale_by_sqrt_dim", True)
  fields.ignore("w_init_variance_scale", "final_w_init_variance_scale")
  width, heads = fields.take("hidden_size"), fields.take("num_attention_heads")
  lru_width = fields.take("lru_width", width)
  mixers = _mixers(fields)
  options = {
    "rglru": {
      "hidden_size": 0 if lru_width == width else lru_width,
      "blocks": heads,
      "d_conv": fields.take("conv1d_width", 4),
    },
    "attention": {
      "num_heads": heads,
      "num_kv_heads": fields.take("num_key_value_heads", heads),
      "head_dim": fields.take("head_dim", width // heads),
      "positions": "rope",
      "window": fields.take("attention_window_size", 2048),
      "use_bias": fields.take("attention_bias", False),
      **rope(fields, share=0.5),
    },
    # The published width counts both of the gated layer's projections.
    "mlp": {"d_ff": fields.take("intermediate_size") // 2, "activation": gated(_ACTIVATION)},
  }
  used = {*mixers, "mlp"}
  return specs.model_config(
    heads=causal_heads(fields),
    vocab_size=fields.take("vocab_size"),
    d_model=width,
    norm="rmsnorm_plus_one",
    norm_epsilon=fields.take("rms_norm_eps", 1e-6),
    embedding_scale=True,
    embedding_scale_dtype="bfloat16",  # 50.5 for the root of 2,560
    tie_embeddings=fields.take("tie_word_embeddings", True),
    logit_soft_cap=float(fields.take("logits_soft_cap", 30.0)),
    layers={name: options[name] for name in options if name in used},
    **stages_of((mixer, "mlp") for mixer in mixers),
  )


def _mixers(fields) -> list[str]:
  """Our name of each layer's mixer: the published kinds of blocks, again and again."""
  older = fields.take("_block_types", ("recurrent", "recurrent", "attention"))
  kinds = fields.take("block_types", older)
  for kind in kinds or [""]:
    if kind not in _MIXERS:
      raise UserError(f"config.json: block_types has {kind!r}; expected {' or '.join(_MIXERS)}.")
  return [_MIXERS[kinds[i % len(kinds)]] for i in range(fields.take("num_hidden_layers"))]


def published_config(spec):
  """The fields of a config.json; None where the layers are none of this family's."""
  layers = [name for p, repeats in spec.decoder_stages for name in branches(p) * repeats]
  kinds = {mixer: kind for kind, mixer in _MIXERS.items()}
  known = set(layers[::2]) <= set(kinds) and set(layers[1::2]) == {"mlp"}
  if spec.kind != "decoder" or not known or "rglru" not in layers:
    return None
  rglru, mlp = spec.layers["rglru"], spec.layers["mlp"]
  attention = spec.layers.get("attention", {})
  names = ("rope_base", "rope_scaling", "rope_fraction")
  return {
    "model_type": "recurrent_gemma",
    "architectures": ["RecurrentGemmaForCausalLM" if spec.heads else "RecurrentGemmaModel"],
    "vocab_size": spec.vocab_size,
    "hidden_size": spec.d_model,
    "num_hidden_layers": len(layers) // 2,
    "block_types": [kinds[mixer] for mixer in layers[::2]],
    "num_attention_heads": rglru["blocks"],
    "head_dim": attention.get("head_dim") or spec.d_model // rglru["blocks"],
    "num_key_value_heads": attention.get("num_kv_heads") or rglru["blocks"],
    "attention_bias": attention.get("use_bias", False),
    "attention_window_size": attention.get("window", 2048),
    "lru_width": rglru["hidden_size"] or spec.d_model,
    "conv1d_width": rglru["d_conv"],
    "intermediate_size": 2 * mlp["d_ff"],
    "hidden_activation": published_activation(mlp["activation"]),
    "rms_norm_eps": spec.norm_epsilon,
    "logits_soft_cap": spec.logit_soft_cap,
    "tie_word_embeddings": spec.tie_embeddings,
    **(published_rope(**{name: attention[name] for name in names}) if attention else {}),
  }


def weights(spec):
  """Every parameter and its tensors."""
  table = [
    weight("embed/tokens", "model.embed_tokens.weight"),
    *norm_weights("stack/final_norm", "model.final_norm"),
  ]
  if spec.heads and not spec.tie_embeddings:
    table.append(weight("head/out/kernel", "lm_head.weight", "v d -> d v"))
  rows = {"rglru": _recurrent_weights, "attention": _attention_weights, "mlp": _mlp_weights}
  for entry in entries(spec.decoder_stages, per_layer=2):
    norm = "channel_pre_norm" if entry.name == "mlp" else "temporal_pre_norm"
    table += norm_weights(entry.norm, f"model.layers.{{}}.{norm}", entry.numbers)
    table += rows[entry.name](entry, spec.layers[entry.name])
  return table


def _affine(entry, here, there) -> list:
  """A torch Linear with a bias."""
  return [
    entry.weight(f"{here}/kernel", f"{there}.weight", "n m -> m n"),
    entry.weight(f"{here}/bias", f"{there}.bias"),
  ]


def _mlp_weights(entry, mlp) -> list:
  names = {"in": "up", "gate": "gate", "out": "down"}
  there = "model.layers.{{}}.mlp_block.{}_proj"
  return [row for ours, name in names.items() for row in _affine(entry, ours, there.format(name))]


def _recurrent_weights(entry, rglru) -> list:
  block = "model.layers.{}.temporal_block"
  table = [
    entry.weight("conv1d/kernel", f"{block}.conv_1d.weight", "h 1 k -> k h"),
    entry.weight("conv1d/bias", f"{block}.conv_1d.bias"),
    entry.weight("Lambda", f"{block}.rg_lru.recurrent_param"),
  ]
  for ours, name in (("gate", "linear_y"), ("in", "linear_x"), ("out", "linear_out")):
    table += _affine(entry, ours, f"{block}.{name}")
  for ours, name in (("input_gate", "input_gate"), ("recurrence_gate", "recurrent_gate")):
    table.append(entry.weight(f"{ours}/kernel", f"{block}.rg_lru.{name}_weight"))
    table.append(entry.weight(f"{ours}/bias", f"{block}.rg_lru.{name}_bias"))
  return table


def _attention_weights(entry, attention) -> list:
  names = [f"model.layers.{{}}.temporal_block.{name}_proj" for name in "qkvo"]
  heads, groups = attention["num_heads"], attention["num_kv_heads"]
  return attention_weights(entry, names, heads, groups, bias=attention["use_bias"])
