"""BART: names, shapes and config of its published checkpoints.

Its layers are those of the original Transformer, and Marian's files name them alike: the stacks'
half of this table serves both.
"""

from llm_jax.interop.fields import activation, heads_of_class, published_activation
from llm_jax.interop.weights import attention_weights, entries, norm_weights, weight
from llm_jax.models import spec as specs

MODEL_TYPES = ("bart",)
IGNORED = (r"(model\.)?(en|de)coder\.version",)
# The parts of a published layer, as its norms are called; the last one is the feed-forward.
_PARTS = {"encoder": ("self_attn", "final"), "decoder": ("self_attn", "encoder_attn", "final")}


def model_config(fields):
  """The `model` part of a config from the published fields."""
  fields.require("normalize_embedding", True)
  fields.require("static_position_embeddings", False)
  fields.require("extra_pos_embeddings", 2)
  fields.require("add_final_layer_norm", False)
  # The first files are of the bare class, though they are read with the head: the table of tokens.
  classes = {"BartForConditionalGeneration": True, "BartModel": False}
  return specs.model_config(
    positions="learned",
    position_offset=2,
    max_length=fields.take("max_position_embeddings"),
    embedding_norm=True,
    decoder_start_id=fields.take("decoder_start_token_id", 2, least=0),
    head_bias=heads_of_class(fields, classes),
    **stacks(fields),
  )


def published_config(spec):
  """config.json of this model; None if it has other stacks."""
  stacks = published_stacks(spec)
  if stacks is None or spec.positions != "learned":
    return None
  return {
    "model_type": "bart",
    "architectures": ["BartForConditionalGeneration" if spec.head_bias else "BartModel"],
    "max_position_embeddings": spec.max_length,
    **stacks,
  }


def weights(spec):
  """Names and layouts of every parameter."""
  found, root = stack_weights(spec), _root(spec)
  for here, side in (("source_embed", "encoder"), ("embed", "decoder")):
    found.append(weight(f"{here}/positions", f"{root}{side}.embed_positions.weight"))
    found += norm_weights(f"{here}/norm", f"{root}{side}.layernorm_embedding", bias=True)
  return found


def aliases(spec):
  """The table of tokens under its other names."""
  root = _root(spec)
  names = (f"{root}encoder.embed_tokens.weight", f"{root}decoder.embed_tokens.weight")
  return dict.fromkeys((*names, "lm_head.weight"), f"{root}shared.weight")


def stacks(fields) -> dict:
  """What Marian's fields have in common with BART's, as options of `model_config`."""
  fields.require("normalize_before", False)
  fields.require("tie_word_embeddings", True)
  # Aliases, what drops whole layers in training, and a name of the port from fairseq.
  fields.ignore("num_hidden_layers", "encoder_layerdrop", "decoder_layerdrop", "add_bias_logits")
  # Of decoding, and of what a model was distilled from.
  fields.ignore("force_bos_token_to_be_generated", "replacing_rate")
  fields.ignore("student_encoder_layers", "student_decoder_layers")
  function = activation(fields.take("activation_function", "gelu"))
  sizes = {
    side: {
      "attention": {"num_heads": fields.take(f"{side}_attention_heads")},
      "mlp": {"d_ff": fields.take(f"{side}_ffn_dim"), "activation": function},
    }
    for side in ("encoder", "decoder")
  }
  layers = {**sizes["decoder"], "cross_attention": sizes["decoder"]["attention"]}
  pattern = []
  for name, own in sizes["encoder"].items():
    shared = own == layers[name]
    pattern.append(name if shared else f"encoder_{name}")
    if not shared:
      layers[f"encoder_{name}"] = {"type": name, **own}
  return {
    "kind": "encoder_decoder",
    "vocab_size": fields.take("vocab_size"),
    "d_model": fields.take("d_model"),
    "encoder_pattern": tuple(pattern),
    "encoder_repeats": fields.take("encoder_layers"),
    "pattern": ("attention", "cross_attention", "mlp"),
    "repeats": fields.take("decoder_layers"),
    "norm_placement": "post",
    "final_norm": False,
    "embedding_scale": fields.take("scale_embedding", False),
    "layers": layers,
  }


def published_stacks(spec) -> dict | None:
  """The inverse of `stacks`; None if the stacks are made of other layers."""
  wanted = {"encoder": ["attention", "mlp"], "decoder": ["attention", "cross_attention", "mlp"]}
  if spec.kind != "encoder_decoder" or len(spec.decoder_stages) > 1:
    return None
  found = {}
  for side, stages in (("encoder", spec.encoder_stages), ("decoder", spec.decoder_stages)):
    names, repeats = specs.branches(stages[0][0]), stages[0][1]
    if [spec.layers[name].get("type", name) for name in names] != wanted[side]:
      return None
    mlp = spec.layers[names[-1]]
    found |= {
      f"{side}_layers": repeats,
      f"{side}_attention_heads": spec.layers[names[0]]["num_heads"],
      f"{side}_ffn_dim": mlp["d_ff"],
      "activation_function": published_activation(mlp["activation"]),
    }
  return found | {
    "is_encoder_decoder": True,
    "vocab_size": spec.vocab_size,
    "d_model": spec.d_model,
    "scale_embedding": spec.embedding_scale,
    "decoder_start_token_id": spec.decoder_start_id,
    "tie_word_embeddings": True,
  }


def stack_weights(spec) -> list:
  """The table of tokens, both stacks and the bias of the logits."""
  root = _root(spec)
  found = [weight("embed/tokens", f"{root}shared.weight")]
  if spec.head_bias:
    found.append(weight("head/bias", "final_logits_bias", "1 v -> v"))
  for stack, side, stages in (
    ("encoder", "encoder", spec.encoder_stages),
    ("stack", "decoder", spec.decoder_stages),
  ):
    parts = _PARTS[side]
    for entry in entries(stages, len(parts), stack):
      part, there = parts[entry.slot], f"{root}{side}.layers.{{}}."
      found += norm_weights(entry.norm, f"{there}{part}_layer_norm", entry.numbers, bias=True)
      if part == "final":
        found += _feed_forward(entry, there)
      else:
        names = [f"{there}{part}.{name}_proj" for name in ("q", "k", "v", "out")]
        found += attention_weights(entry, names, spec.layers[entry.name]["num_heads"])
  return found


def _feed_forward(entry, there):
  return [
    entry.weight("in/kernel", f"{there}fc1.weight", "f d -> d f"),
    entry.weight("in/bias", f"{there}fc1.bias"),
    entry.weight("out/kernel", f"{there}fc2.weight", "d f -> f d"),
    entry.weight("out/bias", f"{there}fc2.bias"),
  ]


def _root(spec):
  """Before every name but those of the head; files without its bias have the bare model's names."""
  return "model." if spec.head_bias else ""
