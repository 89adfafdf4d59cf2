"""BERT: names, shapes and config of its published checkpoints; the tables of its kin start here.

The kin are post-norm encoders with learned positions and a norm behind the embedding; what they
call their tensors differs, so `post_norm_encoder` takes the names.
"""

import re

from llm_jax.errors import unknown
from llm_jax.interop.fields import activation, published_activation
from llm_jax.interop.weights import attention_weights, entries, norm_weights, weight
from llm_jax.models import spec as specs

MODEL_TYPES = ("bert",)
IGNORED = (r"(bert\.)?embeddings\.(position_ids|token_type_ids)",)
_ARCHITECTURES = {
  "BertForPreTraining": ("masked_lm", "next_sentence"),
  "BertForMaskedLM": ("masked_lm",),
  "BertForNextSentencePrediction": ("next_sentence",),
  "BertModel": (),
}
_HEADS = {  # a tensor by which each is known in a file
  "masked_lm": "cls.predictions.transform.dense.weight",
  "next_sentence": "cls.seq_relationship.weight",
  "pooler": "pooler.dense.weight",
}
# Of the program that wrote the first files of several languages; the pooler is as it always was.
_FIRST_POOLER = {
  "directionality": "bidi",
  "pooler_fc_size": 768,
  "pooler_num_attention_heads": 12,
  "pooler_num_fc_layers": 3,
  "pooler_size_per_head": 128,
  "pooler_type": "first_token_transform",
}
NAMES = {
  "tokens": "embeddings.word_embeddings.weight",
  "positions": "embeddings.position_embeddings.weight",
  "token_types": "embeddings.token_type_embeddings.weight",
  "embedding_norm": "embeddings.LayerNorm",
  "q": "encoder.layer.{}.attention.self.query",
  "k": "encoder.layer.{}.attention.self.key",
  "v": "encoder.layer.{}.attention.self.value",
  "attention_out": "encoder.layer.{}.attention.output.dense",
  "attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
  "mlp_in": "encoder.layer.{}.intermediate.dense",
  "mlp_out": "encoder.layer.{}.output.dense",
  "mlp_norm": "encoder.layer.{}.output.LayerNorm",
}


def model_config(fields):
  """The `model` part of a config from the published fields."""
  heads = heads_of(fields, _ARCHITECTURES, _HEADS)
  if "masked_lm" in heads:  # the head has the layers' activation
    fields.require("hidden_act", "gelu", "gelu_python")
  for name, value in _FIRST_POOLER.items():
    fields.require(name, value)
  return specs.model_config(**shared_options(fields, heads))


def shared_options(fields, heads) -> dict:
  """Options of the model that BERT and RoBERTa write in the same fields."""
  fields.require("position_embedding_type", "absolute")
  fields.require("tie_word_embeddings", True)
  function = activation(fields.take("hidden_act", "gelu"))
  return {
    **OPTIONS,
    "vocab_size": fields.take("vocab_size"),
    "d_model": fields.take("hidden_size"),
    "repeats": fields.take("num_hidden_layers"),
    "max_length": fields.take("max_position_embeddings"),
    "token_types": fields.take("type_vocab_size"),
    "norm_epsilon": fields.take("layer_norm_eps", 1e-12),
    "heads": heads,
    "head_bias": "masked_lm" in heads,
    "layers": {
      "attention": {"num_heads": fields.take("num_attention_heads")},
      "mlp": {"d_ff": fields.take("intermediate_size"), "activation": function},
    },
  }


OPTIONS = {
  "kind": "encoder",
  "positions": "learned",
  "norm_placement": "post",
  "final_norm": False,
  "embedding_norm": True,
}


def heads_of(fields, architectures: dict, known_by: dict) -> tuple[str, ...]:
  """The heads of a checkpoint: its class's, and others that its file holds tensors of.

  Published files hold more than their class says: bert-base-uncased is a "BertForMaskedLM" with a
  pooler and a next-sentence head.

  Args:
    fields: of config.json.
    architectures: {class: its heads}.
    known_by: {head: end of the name of one of its tensors}; "next_sentence" includes the pooler.
  """
  name = fields.architecture()
  if name and name not in architectures:
    raise unknown("architecture in config.json", name, architectures)
  held = [h for h, end in known_by.items() if any(n.endswith(end) for n in fields.tensors)]
  found = set(architectures.get(name, ())) | set(held)
  if "next_sentence" in found:
    found.discard("pooler")
  return tuple(head for head in known_by if head in found)


def published_config(spec):
  """config.json of a model, or None if it has options that BERT does not know."""
  heads = {heads: name for name, heads in _ARCHITECTURES.items()}
  config = published_options(spec)
  if config is None or spec.position_offset or not spec.token_types:
    return None
  names = {("masked_lm", "pooler"): "BertForMaskedLM", ("pooler",): "BertModel"} | heads
  name = names.get(spec.heads)
  return name and {"model_type": "bert", "architectures": [name], "pad_token_id": 0, **config}


def published_options(spec) -> dict | None:
  """The inverse of `shared_options`; None if the pattern is another."""
  if spec.kind != "encoder" or spec.decoder_stages != ((("attention", "mlp"), spec.repeats),):
    return None
  mlp = spec.layers["mlp"]
  function = published_activation(mlp["activation"])
  if function is None:
    return None
  return {
    "vocab_size": spec.vocab_size,
    "hidden_size": spec.d_model,
    "num_hidden_layers": spec.repeats,
    "num_attention_heads": spec.layers["attention"]["num_heads"],
    "intermediate_size": mlp["d_ff"] or 4 * spec.d_model,
    "hidden_act": function,
    "max_position_embeddings": spec.max_length,
    "type_vocab_size": spec.token_types,
    "layer_norm_eps": spec.norm_epsilon,
  }


def weights(spec):
  """The table of names and layouts."""
  prefix = "bert." if {"masked_lm", "next_sentence"} & set(spec.heads) else ""
  table = post_norm_encoder(spec, prefix, NAMES)
  if "masked_lm" in spec.heads:
    at = "cls.predictions.transform."
    table += masked_lm_head(f"{at}dense", f"{at}LayerNorm", "cls.predictions.bias")
  if {"next_sentence", "pooler"} & set(spec.heads):
    table += dense("pooler", f"{prefix}pooler.dense")
  if "next_sentence" in spec.heads:
    table += dense("next_sentence", "cls.seq_relationship")
  return table


def post_norm_encoder(spec, prefix: str, names: dict[str, str]):
  """The rows of the embedding and the layers.

  Args:
    spec: of the encoder.
    prefix: of all names.
    names: as `NAMES`; "{}" stands for the layer's number.
  """
  names = {ours: prefix + name for ours, name in names.items()}
  rows = ["tokens", "positions", *(["token_types"] if spec.token_types else [])]
  table = [weight(f"embed/{name}", names[name]) for name in rows]
  table += norm_weights("embed/norm", names["embedding_norm"], bias=True)
  for entry in entries(spec.decoder_stages, per_layer=2):
    if entry.slot == 0:
      projections = [names[name] for name in ("q", "k", "v", "attention_out")]
      table += attention_weights(entry, projections, spec.layers["attention"]["num_heads"])
    else:
      table += _mlp(entry, names)
    norm = names["mlp_norm" if entry.slot else "attention_norm"]
    table += norm_weights(entry.norm, norm, entry.numbers, bias=True)
  return table


def _mlp(entry, names):
  table = []
  for ours in ("in", "out"):
    name = names[f"mlp_{ours}"]
    table += [
      entry.weight(f"{ours}/kernel", f"{name}.weight", "a b -> b a"),
      entry.weight(f"{ours}/bias", f"{name}.bias"),
    ]
  return table


def masked_lm_head(transform: str, norm: str, bias: str):
  """The rows of the masked-LM head; its matrix is the embedding's."""
  return [
    *dense("head/transform", transform),
    *norm_weights("head/norm", norm, bias=True),
    weight("head/bias", bias),
  ]


def dense(path: str, name: str):
  """The two rows of a projection that is not stacked."""
  return [
    weight(f"{path}/kernel", f"{name}.weight", "a b -> b a"),
    weight(f"{path}/bias", f"{name}.bias"),
  ]


def aliases(spec):
  """Tied copies that a file may hold."""
  if "masked_lm" not in spec.heads:
    return {}
  return {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
  }


def rename(name: str) -> str:
  """What the norms' tensors of the first checkpoints are called here."""
  name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
  return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
