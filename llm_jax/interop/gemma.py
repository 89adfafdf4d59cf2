"""Gemma: the names, shapes and config of its published checkpoints.

Source: Gemma Team 2024, arXiv:2403.08295, and transformers' `gemma`. Scales of norms are stored
minus one, and embeddings are scaled by sqrt(d_model).
"""

from llm_jax.errors import UserError
from llm_jax.interop.fields import ACTIVATIONS, gated, published_activation, published_rope, rope
from llm_jax.interop.weights import entries, norm_weights, weight
from llm_jax.models import spec as specs

MODEL_TYPES = ("gemma",)
IGNORED = (r".*\.rotary_emb\.inv_freq",)


def model_config(fields):
  """The `model` part of a config, from the fields of a published one."""
  # The first files say "gelu", trained with its tanh form; later versions name it in another field.
  name = fields.take("hidden_act", "gelu_pytorch_tanh")
  name = "gelu_pytorch_tanh" if name == "gelu" else name
  same = [other for other, ours in ACTIVATIONS.items() if ours == ACTIVATIONS.get(name)]
  fields.require("hidden_activation", *same)
  layers = {
    "attention": attention_options(fields),
    "mlp": {
      "d_ff": fields.take("intermediate_size"),
      "activation": gated(name),
      "use_bias": False,
    },
  }
  return specs.model_config(
    repeats=fields.take("num_hidden_layers"), layers=layers, **model_options(fields)
  )


def model_options(fields) -> dict:
  """What Gemma and Gemma 2 have in common, the layers aside."""
  bare = fields.architecture() in ("GemmaModel", "Gemma2Model")
  return {
    "heads": () if bare else ("language_model",),
    "vocab_size": fields.take("vocab_size"),
    "d_model": fields.take("hidden_size"),
    "max_length": fields.take("max_position_embeddings", 0),
    "norm": "rmsnorm_plus_one",
    "norm_epsilon": fields.take("rms_norm_eps", 1e-6),
    "embedding_scale": True,
    "tie_embeddings": fields.take("tie_word_embeddings", True),
  }


def attention_options(fields) -> dict:
  """The attention of Gemma, and that of Gemma 2 but for windows, caps and scale."""
  fields.require("use_bidirectional_attention", False)
  bias, rotary = fields.take("attention_bias", False), rope(fields)
  if rotary["rope_fraction"] != 1.0:
    raise UserError("config.json: a partial_rotary_factor is not supported, Gemma has none.")
  return {
    "num_heads": fields.take("num_attention_heads"),
    "num_kv_heads": fields.take("num_key_value_heads"),
    "head_dim": fields.take("head_dim", 256),
    "positions": "rope",
    "use_bias": bias,
    "out_bias": bias,
    **rotary,
  }


def published_config(spec):
  """The fields of a config.json; None where a layer is none of this family's."""
  if spec.kind != "decoder" or set(spec.layers) != {"attention", "mlp"}:
    return None
  return {
    "model_type": "gemma",
    "architectures": ["GemmaForCausalLM" if spec.heads else "GemmaModel"],
    "hidden_act": published_activation(spec.layers["mlp"]["activation"]),
    **published_options(spec),
  }


def published_options(spec) -> dict:
  """The fields that Gemma and Gemma 2 have in common."""
  attention, mlp = spec.layers["attention"], spec.layers["mlp"]
  names = ("rope_base", "rope_scaling", "rope_fraction")
  return {
    "vocab_size": spec.vocab_size,
    "hidden_size": spec.d_model,
    "num_hidden_layers": sum(len(p) * repeats for p, repeats in spec.decoder_stages) // 2,
    "num_attention_heads": attention["num_heads"],
    "num_key_value_heads": attention["num_kv_heads"],
    "head_dim": attention["head_dim"],
    "intermediate_size": mlp["d_ff"],
    "rms_norm_eps": spec.norm_epsilon,
    "attention_bias": attention["use_bias"],
    "tie_word_embeddings": spec.tie_embeddings,
    **({"max_position_embeddings": spec.max_length} if spec.max_length else {}),
    **published_rope(**{name: attention[name] for name in names}),
  }


def rename(name):
  """Files of the bare model lack the prefix."""
  return name if name.startswith(("model.", "lm_head.")) else f"model.{name}"


def weights(spec):
  """Every parameter and its tensors."""
  table = outer_weights(spec)
  for entry in entries(spec.decoder_stages, per_layer=2):
    norm = "post_attention_layernorm" if entry.name == "mlp" else "input_layernorm"
    table += norm_weights(entry.norm, f"model.layers.{{}}.{norm}", entry.numbers)
    table += branch_weights(entry, spec)
  return table


def aliases(spec):
  """Tied copies that a file may hold."""
  return {"lm_head.weight": "model.embed_tokens.weight"} if spec.tie_embeddings else {}


def outer_weights(spec) -> list:
  """What stands before and behind the layers."""
  table = [
    weight("embed/tokens", "model.embed_tokens.weight"),
    *norm_weights("stack/final_norm", "model.norm"),
  ]
  if spec.heads and not spec.tie_embeddings:
    table.append(weight("head/out/kernel", "lm_head.weight", "v d -> d v"))
  return table


def branch_weights(entry, spec) -> list:
  """The attention or the feed-forward part of a layer, without norms."""
  if entry.name == "mlp":
    names = {"in": "up_proj", "gate": "gate_proj", "out": "down_proj"}
    there = "model.layers.{{}}.mlp.{}.weight"
    return [
      entry.weight(f"{ours}/kernel", there.format(name), "n m -> m n")
      for ours, name in names.items()
    ]
  options, table = spec.layers[entry.name], []
  heads, kv_heads = options["num_heads"], options["num_kv_heads"]
  for name, h in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
    there = f"model.layers.{{}}.self_attn.{name}_proj"
    table.append(entry.weight(f"{name}/kernel", f"{there}.weight", "(h k) d -> d h k", h=h))
    if options["use_bias"]:
      table.append(entry.weight(f"{name}/bias", f"{there}.bias", "(h k) -> h k", h=h))
  there = "model.layers.{}.self_attn.o_proj"
  table.append(entry.weight("out/kernel", f"{there}.weight", "d (h k) -> h k d", h=heads))
  return table + ([entry.weight("out/bias", f"{there}.bias")] if options["out_bias"] else [])
