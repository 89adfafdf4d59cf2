"""GPT-NeoX and Pythia: the names, shapes and config of their published checkpoints.

Source: Black et al. 2022, arXiv:2204.06745; Biderman et al. 2023, arXiv:2304.01373. The rotary
angles, the order of a fused projection and the defaults are those of transformers' `gpt_neox`.
"""

from llm_jax.interop.fields import activation, published_activation, published_rope, rope
from llm_jax.interop.llama import causal_heads
from llm_jax.interop.weights import entries, norm_weights, weight
from llm_jax.models import spec as specs

MODEL_TYPES = ("gpt_neox",)
IGNORED = (r".*\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",)  # masks and angles
_PATTERN = ("attention", "mlp")


def model_config(fields):
  """The `model` part of a config, from the fields of a published one."""
  parallel = fields.take("use_parallel_residual", True)
  bias = fields.take("attention_bias", True)
  rotary = rope(fields, theta="rotary_emb_base", fraction="rotary_pct", share=0.25)
  # Some versions write the two under both names.
  fields.require("rope_theta", rotary["rope_base"])
  fields.require("partial_rotary_factor", rotary["rope_fraction"])
  heads = fields.take("num_attention_heads")
  options = {"num_heads": heads, "positions": "rope", "use_bias": bias, "out_bias": bias}
  inner = {
    "d_ff": fields.take("intermediate_size"),
    "activation": activation(fields.take("hidden_act", "gelu")),
  }
  return specs.model_config(
    heads=causal_heads(fields),
    vocab_size=fields.take("vocab_size"),
    d_model=fields.take("hidden_size"),
    pattern=(_PATTERN,) if parallel else _PATTERN,
    group_norm=not parallel,
    repeats=fields.take("num_hidden_layers"),
    max_length=fields.take("max_position_embeddings", 0),
    norm_epsilon=fields.take("layer_norm_eps", 1e-5),
    tie_embeddings=fields.take("tie_word_embeddings", False),
    layers={"attention": options | rotary, "mlp": inner},
  )


def published_config(spec):
  """The fields of a config.json; None where a layer is none of this family's."""
  if spec.kind != "decoder" or set(spec.layers) != set(_PATTERN):
    return None
  attention, mlp = spec.layers["attention"], spec.layers["mlp"]
  names = ("rope_base", "rope_scaling", "rope_fraction")
  rotary = published_rope(**{name: attention[name] for name in names})
  rotary["rotary_emb_base"] = rotary.pop("rope_theta")
  rotary["rotary_pct"] = rotary.pop("partial_rotary_factor", 1.0)
  return {
    "model_type": "gpt_neox",
    "architectures": ["GPTNeoXForCausalLM" if spec.heads else "GPTNeoXModel"],
    "vocab_size": spec.vocab_size,
    "hidden_size": spec.d_model,
    "num_hidden_layers": sum(repeats for _, repeats in spec.decoder_stages),
    "num_attention_heads": attention["num_heads"],
    "intermediate_size": mlp["d_ff"],
    "hidden_act": published_activation(mlp["activation"]),
    "layer_norm_eps": spec.norm_epsilon,
    "use_parallel_residual": spec.pattern == (_PATTERN,),
    "attention_bias": attention["use_bias"],
    "tie_word_embeddings": spec.tie_embeddings,
    **({"max_position_embeddings": spec.max_length} if spec.max_length else {}),
    **rotary,
  }


def rename(name):
  """The head has two names in use, and files of the bare model lack the prefix."""
  if name.startswith(("embed_in.", "layers.", "final_layer_norm.")):
    return f"gpt_neox.{name}"
  return "embed_out.weight" if name == "lm_head.weight" else name


def weights(spec):
  """Every parameter and its tensors."""
  table = [
    weight("embed/tokens", "gpt_neox.embed_in.weight"),
    *norm_weights("stack/final_norm", "gpt_neox.final_layer_norm", bias=True),
  ]
  if spec.heads and not spec.tie_embeddings:
    table.append(weight("head/out/kernel", "embed_out.weight", "v d -> d v"))
  return table + layer_weights(spec, "gpt_neox.layers.{}", "attention")


def aliases(spec):
  """Tied copies that a file may hold."""
  return {"embed_out.weight": "gpt_neox.embed_in.weight"} if spec.tie_embeddings else {}


def layer_weights(spec, layer: str, attention: str):
  """The layers as Megatron names them, queries, keys and values fused: those of BLOOM too.

  Args:
    spec: of the model.
    layer: prefix of a layer's tensors, with "{}" for its number.
    attention: what the attention module of a layer is called.
  """
  table = []
  heads, bias = spec.layers["attention"]["num_heads"], spec.layers["attention"]["use_bias"]
  for entry in entries(spec.decoder_stages, per_layer=2):
    norm = "input_layernorm" if entry.slot == 0 else "post_attention_layernorm"
    table += norm_weights(entry.norm, f"{layer}.{norm}", entry.numbers, bias=True)
    if entry.name == "attention":
      table += _attention_weights(entry, f"{layer}.{attention}", heads, bias)
    else:
      for name, there in (("in", "dense_h_to_4h"), ("out", "dense_4h_to_h")):
        table.append(entry.weight(f"{name}/kernel", f"{layer}.mlp.{there}.weight", "n m -> m n"))
        table.append(entry.weight(f"{name}/bias", f"{layer}.mlp.{there}.bias"))
  return table


def _attention_weights(entry, attention, heads, bias):
  """The rows of the fused projection are, head by head, its query, its key and its value."""
  fused, out, table = f"{attention}.query_key_value", f"{attention}.dense", []
  for part, name in enumerate("qkv"):
    layout = "(h p k) d -> p d h k"
    table.append(entry.weight(f"{name}/kernel", f"{fused}.weight", layout, part, h=heads, p=3))
    if bias:
      layout = "(h p k) -> p h k"
      table.append(entry.weight(f"{name}/bias", f"{fused}.bias", layout, part, h=heads, p=3))
  table.append(entry.weight("out/kernel", f"{out}.weight", "d (h k) -> h k d", h=heads))
  return table + ([entry.weight("out/bias", f"{out}.bias")] if bias else [])
