"""Jamba: the names, shapes and config of its published checkpoints.

Layouts: v vocabulary, d model, f feed-forward, e experts.

Source: Lieber et al. 2024, arXiv:2403.19887; transformers' `jamba`.
"""

from llm_jax.errors import UserError
from llm_jax.interop import llama, mamba
from llm_jax.interop.weights import entries, expert_weights, norm_weights, stages_of, weight
from llm_jax.models import spec as specs
from llm_jax.models.spec import branches

MODEL_TYPES = ("jamba",)
_MIXERS, _FEED_FORWARD = ("mamba", "attention"), ("mlp", "moe")

aliases, rename = llama.aliases, llama.rename


def model_config(fields):
  """The model of a config.json."""
  fields.require("sliding_window", None)
  fields.require("hidden_act", "silu", "swish")  # of the recurrent layers too
  fields.require("mamba_inner_layernorms", True)
  fields.ignore("use_mamba_kernels", "use_mambapy", "use_associative_scan")
  fields.ignore("num_logits_to_keep", "calc_logits_for_entire_prompt", "n_ctx")
  stream, mlp = llama.stream(fields), llama.mlp(fields, use_bias=False)
  experts = fields.take("num_experts", 16)
  del stream["pattern"]
  attention_rule = _every(fields, "attn_layer", 8, 4)
  expert_rule = _every(fields, "expert_layer", 2, 1)
  if experts == 1:
    expert_rule = (1, 1)  # no layer
  choose = lambda number, names, rule: names[number % rule[0] == rule[1]]
  kinds = [
    (choose(i, _MIXERS, attention_rule), choose(i, _FEED_FORWARD, expert_rule))
    for i in range(stream.pop("repeats"))
  ]
  moe = {
    "num_experts": experts,
    "top_k": fields.take("num_experts_per_tok", 2),
    "d_ff": mlp["d_ff"],
    "activation": mlp["activation"],
    "renormalise": False,
  }
  layers = {"mamba": _mamba(fields), "attention": _attention(fields), "mlp": mlp, "moe": moe}
  used = {name for kind in kinds for name in kind}
  return specs.model_config(
    **stream,
    **stages_of(kinds),
    layers={name: layers[name] for name in layers if name in used},
  )


def _every(fields, what, period, offset):
  """(period, offset) of the layers that are of a kind."""
  period = fields.take(f"{what}_period", period)
  offset = fields.take(f"{what}_offset", offset, least=0)
  if not 0 <= offset < period:
    raise UserError(
      f"config.json: {what}_offset={offset} must be from 0 up to below {what}_period={period}."
    )
  return period, offset


def _mamba(fields):
  return {
    "d_state": fields.take("mamba_d_state", 16),
    "d_conv": fields.take("mamba_d_conv", 4),
    "expand": fields.take("mamba_expand", 2),
    "dt_rank": mamba.rank(fields, "mamba_dt_rank"),
    "use_bias": fields.take("mamba_proj_bias", False),
    "conv_bias": fields.take("mamba_conv_bias", True),
    "norm_maps": True,
    "norm_epsilon": fields.take("rms_norm_eps", 1e-6),
  }


def _attention(fields):
  heads = fields.take("num_attention_heads")
  return {
    "num_heads": heads,
    "num_kv_heads": fields.take("num_key_value_heads", 8, null=heads),
    "head_dim": fields.take("head_dim", fields.take("hidden_size") // heads),
    "use_bias": False,
    "out_bias": False,
  }


def published_config(spec):
  """The config.json of a model; None where the layers are none of this family's."""
  layers = [name for p, repeats in spec.decoder_stages for name in branches(p) * repeats]
  mixers, inner = layers[::2], layers[1::2]
  known = set(mixers) <= set(_MIXERS) and set(inner) <= set(_FEED_FORWARD)
  if spec.kind != "decoder" or not known or len(mixers) != len(inner) or "mamba" not in mixers:
    return None
  attention_rule, expert_rule = _rule(mixers, "attention"), _rule(inner, "moe")
  feed_forward = spec.layers["moe" if "moe" in inner else "mlp"]
  if attention_rule is None or expert_rule is None:
    return None
  name = "JambaForCausalLM" if spec.heads else "JambaModel"
  heads = spec.layers.get(
    "attention", {"num_heads": 1, "num_kv_heads": 1, "head_dim": spec.d_model}
  )
  experts = {"num_experts": 1}
  if "moe" in inner:
    experts = {
      "num_experts": feed_forward["num_experts"],
      "num_experts_per_tok": feed_forward["top_k"],
      "expert_layer_period": expert_rule[0],
      "expert_layer_offset": expert_rule[1],
    }
  return {
    "model_type": "jamba",
    "architectures": [name],
    "vocab_size": spec.vocab_size,
    "hidden_size": spec.d_model,
    "intermediate_size": feed_forward["d_ff"],
    "hidden_act": "silu",
    "num_hidden_layers": len(mixers),
    "attn_layer_period": attention_rule[0],
    "attn_layer_offset": attention_rule[1],
    "num_attention_heads": heads["num_heads"],
    "num_key_value_heads": heads["num_kv_heads"],
    "head_dim": heads["head_dim"],
    **experts,
    **_published_mamba(spec.layers["mamba"]),
    "rms_norm_eps": spec.norm_epsilon,
    "tie_word_embeddings": spec.tie_embeddings,
    **({"max_position_embeddings": spec.max_length} if spec.max_length else {}),
  }


def _published_mamba(layer):
  return {
    "mamba_d_state": layer["d_state"],
    "mamba_d_conv": layer["d_conv"],
    "mamba_expand": layer["expand"],
    "mamba_dt_rank": layer["dt_rank"] or mamba.AUTO,
    "mamba_proj_bias": layer["use_bias"],
    "mamba_conv_bias": layer["conv_bias"],
  }


def _rule(names, name):
  """(period, offset) that makes these layers of that name and no other; None if none does."""
  found = [i for i, other in enumerate(names) if other == name] or [len(names)]
  period = found[1] - found[0] if len(found) > 1 else max(len(names), found[0] + 1)
  rule = period, found[0]
  fits = all((i % period == found[0]) == (other == name) for i, other in enumerate(names))
  return rule if fits and found[0] < period else None


def weights(spec):
  """The table."""
  rows = [weight("embed/tokens", "model.embed_tokens.weight")]
  rows += norm_weights("stack/final_norm", "model.final_layernorm")
  if spec.heads and not spec.tie_embeddings:
    rows.append(weight("head/out/kernel", "lm_head.weight", "v d -> d v"))
  makers = {
    "mamba": ("mamba", mamba.mixer_weights),
    "attention": ("self_attn", llama.attention_weights),
    "mlp": ("feed_forward", llama.mlp_weights),
    "moe": ("feed_forward", _expert_weights),
  }
  for entry in entries(spec.decoder_stages, per_layer=2):
    norm = "pre_ff_layernorm" if entry.slot else "input_layernorm"
    rows += norm_weights(entry.norm, f"model.layers.{{}}.{norm}", entry.numbers)
    part, maker = makers[entry.name]
    rows += maker(entry, f"model.layers.{{}}.{part}", spec.layers[entry.name])
  return rows


def _expert_weights(entry, at, fields):
  """The rows of a mixture."""
  template = f"{at.replace('{}', '{0}')}.experts.{{1}}.{{2}}.weight"
  names = ("up_proj", "gate_proj", "down_proj")
  return expert_weights(entry, f"{at}.router.weight", template, names, fields["num_experts"])
