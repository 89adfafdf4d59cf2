"""RoBERTa: BERT's layers with positions that begin behind the padding's row, and its own head."""

from llm_jax.interop import bert
from llm_jax.models import spec as specs

MODEL_TYPES = ("roberta",)
IGNORED = (r"(roberta\.)?embeddings\.(position_ids|token_type_ids)",)
_ARCHITECTURES = {"RobertaForMaskedLM": ("masked_lm",), "RobertaModel": ()}
_HEADS = {"masked_lm": "lm_head.dense.weight", "pooler": "pooler.dense.weight"}


def model_config(fields):
  """The `model` part of a config from the published fields."""
  options = bert.shared_options(fields, bert.heads_of(fields, _ARCHITECTURES, _HEADS))
  # Rows 0 to pad_token_id of the table are never used, but they are counted.
  offset = fields.take("pad_token_id", 1, least=0) + 1
  options |= {"position_offset": offset, "max_length": options["max_length"] - offset}
  return specs.model_config(**options)


def published_config(spec):
  """config.json of a model, or None if it has options that RoBERTa does not know."""
  config = bert.published_options(spec)
  names = {
    ("masked_lm",): "RobertaForMaskedLM",
    ("masked_lm", "pooler"): "RobertaForMaskedLM",
    ("pooler",): "RobertaModel",
    (): "RobertaModel",
  }
  if config is None or spec.heads not in names or not (spec.position_offset and spec.token_types):
    return None
  return {
    **config,
    "model_type": "roberta",
    "architectures": [names[spec.heads]],
    "max_position_embeddings": spec.max_length + spec.position_offset,
    "pad_token_id": spec.position_offset - 1,
  }


def weights(spec):
  """The table of names and layouts."""
  prefix = "roberta." if "masked_lm" in spec.heads else ""
  table = bert.post_norm_encoder(spec, prefix, bert.NAMES)
  if "masked_lm" in spec.heads:
    table += bert.masked_lm_head("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
  if "pooler" in spec.heads:
    table += bert.dense("pooler", f"{prefix}pooler.dense")
  return table


def aliases(spec):
  """Tied copies that a file may hold."""
  if "masked_lm" not in spec.heads:
    return {}
  return {
    "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
  }
