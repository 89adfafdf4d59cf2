"""RWKV-4 as transformers stores it: names, shapes and config. `rwkv_official` has the authors' own.

Source: Peng et al. 2023, arXiv:2305.13048; transformers' `rwkv`.
"""

from llm_jax.interop.llama import causal_heads
from llm_jax.interop.weights import entries, norm_weights, weight
from llm_jax.models import spec as specs

MODEL_TYPES = ("rwkv",)
PATTERN = ("rwkv4_time_mix", "rwkv4_channel_mix")
_LETTERS = {"k": "key", "v": "value", "r": "receptance"}


def model_config(fields):
  """The `model` part of a config, from the fields of a published one."""
  width = fields.take("hidden_size")
  fields.require("attention_hidden_size", width)
  fields.require("layer_norm_epsilon", 1e-5)  # the final norm has this one, whatever it says
  fields.ignore("rescale_every")  # halves the stream now and then, for the range of half precision
  return specs.model_config(
    heads=causal_heads(fields),
    vocab_size=fields.take("vocab_size"),
    d_model=width,
    pattern=PATTERN,
    repeats=fields.take("num_hidden_layers"),
    max_length=fields.take("context_length", 1024),
    embedding_norm=True,
    tie_embeddings=fields.take("tie_word_embeddings", False),
    layers={"rwkv4_channel_mix": {"d_ff": fields.take("intermediate_size", 0)}},
  )


def published_config(spec):
  """The fields of a config.json; None where a layer is none of this family's."""
  if spec.kind != "decoder" or set(spec.layers) != set(PATTERN):
    return None
  return {
    "model_type": "rwkv",
    "architectures": ["RwkvForCausalLM" if spec.heads else "RwkvModel"],
    "vocab_size": spec.vocab_size,
    "hidden_size": spec.d_model,
    "attention_hidden_size": spec.d_model,
    "num_hidden_layers": sum(repeats for _, repeats in spec.decoder_stages),
    "intermediate_size": spec.layers["rwkv4_channel_mix"]["d_ff"]
    or None,  # None: four times as wide
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": spec.tie_embeddings,
    "rescale_every": 0,
    **({"context_length": spec.max_length} if spec.max_length else {}),
  }


def rename(name):
  """Files of the bare model lack the prefix."""
  return name if name.startswith(("rwkv.", "head.")) else f"rwkv.{name}"


def weights(spec):
  """Every parameter and its tensors."""
  table = [
    weight("embed/tokens", "rwkv.embeddings.weight"),
    *norm_weights("embed/norm", "rwkv.blocks.0.pre_ln", bias=True),
    *norm_weights("stack/final_norm", "rwkv.ln_out", bias=True),
  ]
  if spec.heads and not spec.tie_embeddings:
    table.append(weight("head/out/kernel", "head.weight", "v d -> d v"))
  for entry in entries(spec.decoder_stages, per_layer=2):
    table += norm_weights(entry.norm, f"rwkv.blocks.{{}}.ln{entry.slot + 1}", entry.numbers, True)
    table += _layer_weights(entry)
  return table


def _layer_weights(entry):
  timed = entry.slot == 0
  layer = "rwkv.blocks.{}." + ("attention" if timed else "feed_forward")
  table = [
    entry.weight(f"{name}/kernel", f"{layer}.{name}.weight", "n m -> m n")
    for name in ("key", "value", "receptance", *(["output"] if timed else []))
  ]
  for letter in "kvr" if timed else "kr":
    there = f"{layer}.time_mix_{_LETTERS[letter]}"
    table.append(entry.weight(f"time_mix_{letter}", there, "1 1 d -> d"))
  if timed:
    table += [entry.weight(name, f"{layer}.{name}") for name in ("time_decay", "time_first")]
  return table


def aliases(spec):
  """Tied copies that a file may hold."""
  return {"head.weight": "rwkv.embeddings.weight"} if spec.tie_embeddings else {}
