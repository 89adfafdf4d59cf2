"""DistilBERT: BERT's layers without token types and pooler, under names of their own."""

from llm_jax.interop import bert
from llm_jax.interop.fields import activation
from llm_jax.models import spec as specs

MODEL_TYPES = ("distilbert",)
IGNORED = (r"(distilbert\.)?embeddings\.position_ids",)
_ARCHITECTURES = {"DistilBertForMaskedLM": ("masked_lm",), "DistilBertModel": ()}
_HEADS = {"masked_lm": "vocab_transform.weight"}
_EPSILON = 1e-12  # written in the published code, in no config
_NAMES = {
  "tokens": "embeddings.word_embeddings.weight",
  "positions": "embeddings.position_embeddings.weight",
  "embedding_norm": "embeddings.LayerNorm",
  "q": "transformer.layer.{}.attention.q_lin",
  "k": "transformer.layer.{}.attention.k_lin",
  "v": "transformer.layer.{}.attention.v_lin",
  "attention_out": "transformer.layer.{}.attention.out_lin",
  "attention_norm": "transformer.layer.{}.sa_layer_norm",
  "mlp_in": "transformer.layer.{}.ffn.lin1",
  "mlp_out": "transformer.layer.{}.ffn.lin2",
  "mlp_norm": "transformer.layer.{}.output_layer_norm",
}


def model_config(fields):
  """The `model` part of a config from the published fields."""
  heads = bert.heads_of(fields, _ARCHITECTURES, _HEADS)
  if "masked_lm" in heads:  # the head has the layers' activation
    fields.require("activation", "gelu", "gelu_python")
  fields.require("tie_word_embeddings", True)
  fields.require("tie_weights_", True)
  fields.ignore("sinusoidal_pos_embds")  # the file holds the table either way
  function = activation(fields.take("activation", "gelu"))
  return specs.model_config(
    **bert.OPTIONS,
    vocab_size=fields.take("vocab_size"),
    d_model=fields.take("dim"),
    repeats=fields.take("n_layers"),
    max_length=fields.take("max_position_embeddings"),
    norm_epsilon=_EPSILON,
    heads=heads,
    head_bias="masked_lm" in heads,
    layers={
      "attention": {"num_heads": fields.take("n_heads")},
      "mlp": {"d_ff": fields.take("hidden_dim"), "activation": function},
    },
  )


def published_config(spec):
  """config.json of a model, or None if it has options that DistilBERT does not know."""
  names = {heads: name for name, heads in _ARCHITECTURES.items()}
  config = bert.published_options(spec)
  if config is None or spec.token_types or spec.heads not in names:
    return None
  return {
    "model_type": "distilbert",
    "architectures": [names[spec.heads]],
    "vocab_size": config["vocab_size"],
    "dim": config["hidden_size"],
    "n_layers": config["num_hidden_layers"],
    "n_heads": config["num_attention_heads"],
    "hidden_dim": config["intermediate_size"],
    "activation": config["hidden_act"],
    "max_position_embeddings": config["max_position_embeddings"],
    "pad_token_id": 0,
  }


def weights(spec):
  """The table of names and layouts."""
  prefix = "distilbert." if "masked_lm" in spec.heads else ""
  table = bert.post_norm_encoder(spec, prefix, _NAMES)
  if "masked_lm" in spec.heads:
    table += bert.masked_lm_head("vocab_transform", "vocab_layer_norm", "vocab_projector.bias")
  return table


def aliases(spec):
  """Tied copies that a file may hold."""
  if "masked_lm" not in spec.heads:
    return {}
  return {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"}
