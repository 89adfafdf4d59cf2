"""Marian, the layout of the original Transformer's published checkpoints (Opus-MT).

Source: Junczys-Dowmunt et al. 2018, arXiv:1804.00344; the model is that of Vaswani et al. 2017,
arXiv:1706.03762, with sines and cosines in halves and a bias of the logits.
"""

from llm_jax.interop import bart
from llm_jax.interop.fields import heads_of_class
from llm_jax.models import spec as specs

MODEL_TYPES = ("marian",)
IGNORED = (r"model\.(en|de)coder\.embed_positions\.weights?",)  # tables of sinusoids
_ARCHITECTURES = {"MarianMTModel": ("language_model",), "MarianModel": ()}

weights, aliases = bart.stack_weights, bart.aliases


def model_config(fields):
  """The `model` part of a config from the published fields."""
  options = bart.stacks(fields)
  fields.require("share_encoder_decoder_embeddings", True)
  fields.require("decoder_vocab_size", options["vocab_size"])
  fields.require("normalize_embedding", False)
  fields.require("static_position_embeddings", True)
  fields.require("add_final_layer_norm", False)
  heads = heads_of_class(fields, _ARCHITECTURES)
  fields.ignore("extra_pos_embeddings")  # of tables that are learned
  return specs.model_config(
    positions="sinusoidal_halves",
    max_length=fields.take("max_position_embeddings"),
    decoder_start_id=fields.take("decoder_start_token_id", least=0),
    heads=heads,
    head_bias=bool(heads),
    **options,
  )


def published_config(spec):
  """config.json of this model; None if it has other stacks."""
  stacks = bart.published_stacks(spec)
  if stacks is None or spec.positions != "sinusoidal_halves":
    return None
  return {
    "model_type": "marian",
    "architectures": ["MarianMTModel" if spec.heads else "MarianModel"],
    # Theirs is a table of sinusoids of so many rows; here positions have no end.
    "max_position_embeddings": spec.max_length or 1024,
    "decoder_vocab_size": spec.vocab_size,
    "share_encoder_decoder_embeddings": True,
    "pad_token_id": spec.decoder_start_id,  # as published; the default lies beyond a small table
    **stacks,
  }
