"""Llama 1, 2 and 3, and what Mistral, Mixtral and Qwen share with it.

Layouts: v vocabulary, d model, h heads, g key/value heads, k head size, f feed-forward.
"""

from llm_jax.errors import UserError, unknown
from llm_jax.interop.fields import gated, published_activation, published_rope, rope
from llm_jax.interop.weights import attention_weights as projections
from llm_jax.interop.weights import entries, norm_weights, weight
from llm_jax.models import spec as specs

MODEL_TYPES = ("llama",)
# Rotation angles, which older files hold as a buffer of each layer.
IGNORED = (r".*\.rotary_emb\.inv_freq",)


def model_config(fields):
  """The model of a config.json."""
  bias = fields.take("attention_bias", False)
  fields.require("rope_interleaved", False)
  fields.ignore("max_sequence_length", "is_llama_config")
  return specs.model_config(
    **stream(fields),
    layers={
      "attention": attention(fields, use_bias=bias, out_bias=bias),
      "mlp": mlp(fields, use_bias=fields.take("mlp_bias", False)),
    },
  )


def published_config(spec):
  """The config.json of a model."""
  config = published(spec, "LlamaForCausalLM", "mlp")
  if config is None or spec.d_model % config["num_attention_heads"]:
    return None
  return {
    **config,
    "model_type": "llama",
    "attention_bias": spec.layers["attention"]["use_bias"],
    "mlp_bias": spec.layers["mlp"]["use_bias"],
  }


def weights(spec):
  """The table."""
  rows = stream_weights(spec)
  for entry in entries(spec.decoder_stages, per_layer=2):
    fields, layer = spec.layers[entry.name], "model.layers.{}."
    if entry.slot == 0:
      rows += norm_weights(entry.norm, layer + "input_layernorm", entry.numbers)
      rows += attention_weights(entry, layer + "self_attn", fields)
    else:
      rows += norm_weights(entry.norm, layer + "post_attention_layernorm", entry.numbers)
      rows += mlp_weights(entry, layer + "mlp", fields)
  return rows


def aliases(spec):
  """The output matrix, where it is the embedding."""
  return {"lm_head.weight": "model.embed_tokens.weight"} if spec.tie_embeddings else {}


def rename(name):
  """A model without a head is stored without the prefix of its stack."""
  return name if name.startswith(("model.", "lm_head.")) else f"model.{name}"


# ----------------------------------------------------------------- what the relatives take over


def stream(fields, pattern=("attention", "mlp"), tied=False, epsilon=1e-6):
  """The options of the stream around the layers; `tied`, `epsilon` where config.json says none."""
  return {
    "vocab_size": fields.take("vocab_size"),
    "d_model": fields.take("hidden_size"),
    "pattern": pattern,
    "repeats": fields.take("num_hidden_layers"),
    "norm": "rmsnorm",
    "norm_epsilon": fields.take("rms_norm_eps", epsilon),
    "tie_embeddings": fields.take("tie_word_embeddings", tied),
    "max_length": fields.take("max_position_embeddings", 0),
    "heads": causal_heads(fields),
  }


def causal_heads(fields):
  """The heads by the class that wrote the file: with the vocabulary's, or none."""
  name = fields.architecture()
  if name.endswith(("ForCausalLM", "LMHeadModel")) or not name:
    return ("language_model",)
  if name.endswith("Model") and "Heads" not in name:
    return ()
  raise unknown("architecture", name, ("...ForCausalLM", "...Model"))


def attention(fields, base=10_000.0, groups=0, size=0, **more):
  """The options of rotary attention.

  Args:
    fields: of config.json.
    base, groups, size: the wavelength base, the number of key/value heads and the size of a head
      where config.json says none; 0: as many as heads, and their share of the model's width.
    more: options that are the same in all models of the family.
  """
  heads, rotary = fields.take("num_attention_heads"), rope(fields, base=base)
  if rotary["rope_fraction"] != 1.0:  # transformers passes over it in these families
    found = rotary["rope_fraction"]
    raise UserError(f"config.json: partial_rotary_factor={found} is not supported; expected 1.0.")
  return {
    "num_heads": heads,
    "num_kv_heads": fields.take("num_key_value_heads", groups or heads, null=heads),
    "head_dim": fields.take("head_dim", size or fields.take("hidden_size") // heads),
    "positions": "rope",
    **rotary,
    **more,
  }


def mlp(fields, **more):
  """The options of the gated feed-forward layer."""
  activation = gated(fields.take("hidden_act", "silu"))
  return {"d_ff": fields.take("intermediate_size"), "activation": activation, **more}


def published(spec, architecture, feed_forward):
  """The fields that all of them share, or None for another kind of model.

  Args:
    spec: of the model.
    architecture: class of transformers, "LlamaForCausalLM".
    feed_forward: name of the second layer of its pattern.
  """
  if spec.kind != "decoder" or set(spec.layers) - {"local"} != {"attention", feed_forward}:
    return None
  heads, inner = spec.layers["attention"], spec.layers[feed_forward]
  if published_activation(inner["activation"]) is None:
    return None
  return {
    "architectures": [architecture if spec.heads else architecture.replace("ForCausalLM", "Model")],
    "vocab_size": spec.vocab_size,
    "hidden_size": spec.d_model,
    "intermediate_size": inner["d_ff"],
    "num_hidden_layers": sum(len(p) // 2 * repeats for p, repeats in spec.decoder_stages),
    "num_attention_heads": heads["num_heads"],
    "num_key_value_heads": heads["num_kv_heads"],
    "head_dim": heads["head_dim"],
    "hidden_act": published_activation(inner["activation"]),
    "rms_norm_eps": spec.norm_epsilon,
    "tie_word_embeddings": spec.tie_embeddings,
    **({"max_position_embeddings": spec.max_length} if spec.max_length else {}),
    **published_rope(heads["rope_base"], heads["rope_scaling"], heads["rope_fraction"]),
  }


def stream_weights(spec):
  """The rows outside the layers."""
  rows = [weight("embed/tokens", "model.embed_tokens.weight")]
  rows += norm_weights("stack/final_norm", "model.norm")
  if spec.heads and not spec.tie_embeddings:
    rows.append(weight("head/out/kernel", "lm_head.weight", "v d -> d v"))
  return rows


def attention_weights(entry, at, fields):
  """The rows of an attention layer whose tensors lie under `at`."""
  names = [f"{at}.{name}_proj" for name in "qkvo"]
  options = (fields[name] for name in ("num_heads", "num_kv_heads", "use_bias", "out_bias"))
  rows = projections(entry, names, *options)
  if fields["qk_norm"]:
    rows += [entry.weight(f"{n}_norm/scale", f"{at}.{n}_norm.weight") for n in ("q", "k")]
  return rows


def mlp_weights(entry, at, fields):
  """The rows of a gated feed-forward layer whose tensors lie under `at`."""
  rows = []
  for here, there in (("in", "up_proj"), ("gate", "gate_proj"), ("out", "down_proj")):
    layout = "d f -> f d" if here == "out" else "f d -> d f"
    rows.append(entry.weight(f"{here}/kernel", f"{at}.{there}.weight", layout))
    if fields["use_bias"]:
      rows.append(entry.weight(f"{here}/bias", f"{at}.{there}.bias"))
  return rows
