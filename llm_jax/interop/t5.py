"""T5 v1.0 and v1.1: names, shapes and config of their published checkpoints.

The two differ in the feed-forward layer and in the head: v1.0 has the table of tokens for a head
and scales its logits by 1 / sqrt(d_model), v1.1 has a matrix of its own.
"""

from llm_jax.interop.fields import heads_of_class
from llm_jax.interop.weights import attention_weights, entries, weight
from llm_jax.models import spec as specs

MODEL_TYPES = ("t5",)
# Files of old versions hold a table that the model never reads.
IGNORED = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)
# What `feed_forward_proj` means: (ours, its function, whether it gates). "gated-gelu" is the
# approximation by tanh, whatever the name "gelu" means elsewhere.
_FEED_FORWARD = {
  "relu": ("relu", "relu", False),
  "gelu": ("gelu", "gelu", False),
  "silu": ("silu", "silu", False),
  "gated-gelu": ("geglu_tanh", "gelu_new", True),
  "gated-silu": ("swiglu", "silu", True),
}
_ARCHITECTURES = {
  "T5ForConditionalGeneration": ("language_model",),
  "T5WithLMHeadModel": ("language_model",),  # its first name
  "T5Model": (),
}
_PARTS = {
  "encoder": ("SelfAttention", "DenseReluDense"),
  "decoder": ("SelfAttention", "EncDecAttention", "DenseReluDense"),
}


def model_config(fields):
  """The `model` part of a config from the published fields."""
  kind = fields.take("feed_forward_proj", "relu")
  fields.require("feed_forward_proj", *_FEED_FORWARD)
  activation, function, gates = _FEED_FORWARD[kind]
  fields.require("dense_act_fn", function)
  fields.require("is_gated_act", gates)
  tied = fields.take("tie_word_embeddings", True)
  scaled = fields.take("scale_decoder_outputs", tied)
  # transformers 5 calls every T5 tied, and unties those whose file has both matrices.
  tied &= scaled or "lm_head.weight" not in fields.tensors
  layers, d_model = fields.take("num_layers"), fields.take("d_model")
  attention = {
    "num_heads": fields.take("num_heads"),
    "head_dim": fields.take("d_kv"),
    "use_bias": False,
    "query_scale": 1.0,
  }
  fields.ignore("n_positions", "output_past")
  padding = fields.take("pad_token_id", 0, least=0)
  return specs.model_config(
    kind="encoder_decoder",
    heads=heads_of_class(fields, _ARCHITECTURES),
    vocab_size=fields.take("vocab_size"),
    d_model=d_model,
    encoder_repeats=layers,
    repeats=fields.take("num_decoder_layers", layers),
    pattern=("attention", "cross_attention", "mlp"),
    positions="relative",
    position_buckets=fields.take("relative_attention_num_buckets", 32),
    position_max_distance=fields.take("relative_attention_max_distance", 128),
    norm="rmsnorm",
    norm_epsilon=fields.take("layer_norm_epsilon", 1e-6),
    tie_embeddings=tied,
    logit_scale=d_model**-0.5 if scaled else 1.0,
    decoder_start_id=fields.take("decoder_start_token_id", padding, least=0),
    layers={
      "attention": attention | {"out_bias": False},
      "cross_attention": attention,
      "mlp": {"d_ff": fields.take("d_ff"), "activation": activation, "use_bias": False},
    },
  )


def published_config(spec):
  """config.json of this model; None if it is no encoder-decoder with T5's tables."""
  patterns = (("attention", "mlp"), ("attention", "cross_attention", "mlp"))
  if spec.kind != "encoder_decoder" or (spec.encoder_pattern, spec.pattern) != patterns:
    return None
  attention, mlp = spec.layers["attention"], spec.layers["mlp"]
  names = {ours: name for name, (ours, _, _) in _FEED_FORWARD.items()}
  if mlp["activation"] not in names or spec.positions != "relative":
    return None
  return {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration" if spec.heads else "T5Model"],
    "is_encoder_decoder": True,
    "vocab_size": spec.vocab_size,
    "d_model": spec.d_model,
    "d_kv": attention["head_dim"] or spec.d_model // attention["num_heads"],
    "d_ff": mlp["d_ff"],
    "num_layers": spec.encoder_repeats,
    "num_decoder_layers": spec.repeats,
    "num_heads": attention["num_heads"],
    "relative_attention_num_buckets": spec.position_buckets,
    "relative_attention_max_distance": spec.position_max_distance,
    "layer_norm_epsilon": spec.norm_epsilon,
    "feed_forward_proj": names[mlp["activation"]],
    "tie_word_embeddings": spec.tie_embeddings,
    "scale_decoder_outputs": spec.logit_scale != 1.0,
    "decoder_start_token_id": spec.decoder_start_id,
  }


def weights(spec):
  """Names and layouts of every parameter."""
  found = [weight("embed/tokens", "shared.weight")]
  if spec.heads and not spec.tie_embeddings:
    found.append(weight("head/out/kernel", "lm_head.weight", "v d -> d v"))
  for root, side, stages in (
    ("encoder", "encoder", spec.encoder_stages),
    ("stack", "decoder", spec.decoder_stages),
  ):
    table = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    found.append(weight(f"{root}/position_bias", table))
    found.append(weight(f"{root}/final_norm/scale", f"{side}.final_layer_norm.weight"))
    parts = _PARTS[side]
    for entry in entries(stages, len(parts), root):
      there = f"{side}.block.{{}}.layer.{entry.slot}."
      found.append(entry.weight(f"{entry.norm}/scale", f"{there}layer_norm.weight"))
      layer = spec.layers[entry.name]
      there += f"{parts[entry.slot]}."
      if parts[entry.slot] == "DenseReluDense":
        found += _feed_forward(entry, there, layer)
      else:
        names, biases = [there + name for name in "qkvo"], {"bias": False, "out_bias": False}
        found += attention_weights(entry, names, layer["num_heads"], **biases)
  return found


def aliases(spec):
  """The table of tokens under its other names."""
  names = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
  if spec.heads and spec.tie_embeddings:
    names.append("lm_head.weight")
  return dict.fromkeys(names, "shared.weight")


def _feed_forward(entry, there, layer):
  gates = layer["activation"] in ("geglu_tanh", "swiglu")
  names = {"gate": "wi_0", "in": "wi_1"} if gates else {"in": "wi"}
  found = [entry.weight("out/kernel", f"{there}wo.weight", "d f -> f d")]
  for here, name in names.items():
    found.append(entry.weight(f"{here}/kernel", f"{there}{name}.weight", "f d -> d f"))
  return found
