"""config.json, read so that no field that changes the mathematics is passed over in silence."""

import math
import re
from collections.abc import Iterable

from llm_jax.errors import UserError, unknown

REQUIRED = object()
_MANY = 2**31

# No influence on what a given sequence of tokens is mapped to: names, types, training, decoding.
_IGNORED = re.compile(
  r"_.*|model_type|architectures|dtype|torch_dtype|transformers_version|auto_map"
  r"|.*dropout.*|.*pdrop|.*layerdrop|.*_token_ids?|.*initializer.*|init_std|.*_init|gradient_checkpointing"
  r"|use_cache|output_(attentions|hidden_states|past|router_logits)|return_dict|use_return_dict"
  r"|torchscript|tf_legacy_loss|use_bfloat16|chunk_size_feed_forward|tie_encoder_decoder"
  r"|problem_type|finetuning_task|task_specific_params|id2label|label2id|num_labels|n_special"
  r"|tokenizer_class|prefix|name_or_path|is_encoder_decoder|pretraining_tp|summary_.*"
  r"|router_aux_loss_coef|router_jitter_noise|cache_implementation|gradient_.*"
  r"|(max|min)_length|num_beams|num_beam_groups|length_penalty|early_stopping|do_sample"
  r"|temperature|top_[kp]|typical_p|repetition_penalty|no_repeat_ngram_size|diversity_penalty"
  r"|encoder_no_repeat_ngram_size|bad_words_ids|num_return_sequences|output_scores"
  r"|return_dict_in_generate|remove_invalid_values|exponential_decay_length_penalty"
  r"|suppress_tokens|begin_suppress_tokens|normalize_before|normalize_embedding"
)
# Fields that change the mathematics unless they have one of these values.
_NEUTRAL = {
  "is_decoder": (False,),
  "add_cross_attention": (False,),
  "pruned_heads": ({},),
  "normalize_before": (False,),
  "normalize_embedding": (True,),
}

# Published name -> ours.
ACTIVATIONS = {
  "relu": "relu",
  "gelu": "gelu",
  "gelu_python": "gelu",
  "gelu_new": "gelu_tanh",
  "gelu_fast": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
  "silu": "silu",
  "swish": "silu",
  "relu2": "relu2",
}
_GATED = {"silu": "swiglu", "gelu": "geglu", "gelu_tanh": "geglu_tanh"}
_PUBLISHED = {"gelu_tanh": "gelu_pytorch_tanh"} | {name: name for name in ("relu", "gelu", "silu")}


class Fields:
  """The fields of a config.json, each of which a family must account for.

  Attributes:
    tensors: names of the tensors beside it, for families whose files hold more than config.json
      says; empty where a config is looked at alone.
  """

  def __init__(self, values: dict, source: str = "config.json", tensors: Iterable[str] = ()):
    self._values, self._source, self._seen = dict(values), source, set()
    self.tensors = frozenset(tensors)

  def take(self, name: str, default=REQUIRED, null=REQUIRED, kind: type | None = None, least=1):
    """A field's value; `default` where it is missing or null, `null` if given where it is null.

    Args:
      name: of the field.
      default, null: see above.
      kind: what it must be: int, float (an int will do), bool, str, list (of texts), dict or object
        (anything). None: what the default is, and int where there is none.
      least: of an int. A float must be positive.

    Raises:
      UserError: it is missing and there is no default, or it is of another kind.
    """
    self._seen.add(name)
    value = self._values.get(name)
    if value is not None:
      if kind is None:
        kind = int if default is REQUIRED or default is None else type(default)
      expected = _mismatch(value, kind, least)
      if expected:
        raise UserError(f"{self._source}: {name}={value!r} should be {expected}.")
      return value
    if name in self._values and null is not REQUIRED:
      return null
    if default is REQUIRED:
      raise UserError(f"{self._source} has no {name!r}, which this model_type needs.")
    return default

  def require(self, name: str, *values) -> None:
    """Refuses a field that is present with another value than one of these; null is accepted."""
    self._seen.add(name)
    found = self._values.get(name)
    if found is not None and found not in values:
      known = " or ".join(repr(value) for value in values)
      raise UserError(f"{self._source}: {name}={found!r} is not supported; expected {known}.")

  def ignore(self, *names: str) -> None:
    """Accounts for fields that have no influence on the mathematics."""
    self._seen.update(names)

  def finish(self) -> None:
    """Refuses, by name, the fields that nobody accounted for."""
    for name, values in _NEUTRAL.items():
      if name not in self._seen:
        self.require(name, *values)
    left = [
      name
      for name, value in self._values.items()
      if name not in self._seen and value is not None and not _IGNORED.fullmatch(name)
    ]
    if left:
      listed = ", ".join(f"{name}={self._values[name]!r}" for name in sorted(left)[:5])
      more = f" and {len(left) - 5} more" if len(left) > 5 else ""
      raise UserError(
        f"{self._source} has fields whose meaning is not known here, so the model could be "
        f"another than meant: {listed}{more}. Remove them if they change nothing."
      )

  def architecture(self) -> str:
    """The class that wrote the file, "LlamaForCausalLM"; "" if it does not say."""
    return next(iter(self.take("architectures", [])), "")


def heads_of_class(fields: Fields, classes: dict[str, tuple]) -> tuple[str, ...]:
  """The heads of the class that wrote the file; the first one's if it does not say.

  Raises:
    UserError: a class that is none of these, which has heads of its own.
  """
  name = fields.architecture() or next(iter(classes))
  if name not in classes:
    raise unknown("architecture in config.json", name, classes)
  return classes[name]


def _mismatch(value, kind, least) -> str:
  """What was expected, if the value is something else."""
  if kind is int:
    fits = type(value) is int and least <= value < _MANY
    return "" if fits else f"a whole number of at least {least}, below 2**31"
  if kind is float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return "" if number and 0 < value < math.inf else "a positive number"
  if kind in (list, tuple):
    fits = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    return "" if fits else "a list of texts"
  names = {bool: "true or false", str: "a text", dict: "an object"}
  return "" if isinstance(value, kind) else names[kind]


def activation(name: str) -> str:
  """Our name of a published activation."""
  if name not in ACTIVATIONS:
    raise unknown("activation", name, ACTIVATIONS)
  return ACTIVATIONS[name]


def gated(name: str) -> str:
  """Our name of the gated form of a published activation: "silu" is "swiglu"."""
  if _GATED.get(activation(name)) is None:
    raise unknown(
      "gated activation", name, [n for n, ours in ACTIVATIONS.items() if ours in _GATED]
    )
  return _GATED[ACTIVATIONS[name]]


def published_activation(name: str) -> str | None:
  """The published name of our activation, gated or not; None if it has none."""
  inner = {ours: plain for plain, ours in _GATED.items()}.get(name, name)
  return _PUBLISHED.get(inner)


def rope(
  fields: Fields, *, theta="rope_theta", base=10_000.0, fraction="partial_rotary_factor", share=1.0
) -> dict:
  """Rotary options of the attention layer, from `rope_parameters` or the older separate fields.

  Args:
    fields: of config.json.
    theta, base: name of the older field of the wavelength base, and its default.
    fraction, share: name of the older field of the rotated share of a head, and its default.

  Returns:
    {"rope_base", "rope_fraction", "rope_scaling"}.
  """
  older = {
    "rope_theta": fields.take(theta, base),
    "partial_rotary_factor": fields.take(fraction, share),
    **_scaling_fields(fields.take("rope_scaling", {})),
  }
  values = Fields({**older, **fields.take("rope_parameters", {})}, "config.json's rope_parameters")
  options = {
    "rope_base": float(values.take("rope_theta", kind=float)),
    "rope_fraction": float(values.take("partial_rotary_factor", kind=float)),
    "rope_scaling": _scaling(values),
  }
  values.finish()
  return options


def _scaling_fields(values):
  return {"rope_type" if name == "type" else name: value for name, value in values.items()}


def _scaling(values):
  kind = values.take("rope_type", "default")
  if kind == "default":
    return ()
  if kind == "linear":
    return ("linear", float(values.take("factor", kind=float)))
  if kind == "llama3":
    names = ("factor", "low_freq_factor", "high_freq_factor")
    length = values.take("original_max_position_embeddings")
    return ("llama3", *(float(values.take(name, kind=float)) for name in names), length)
  raise unknown("rope_type in config.json", kind, ("default", "linear", "llama3"))


def published_rope(rope_base, rope_scaling=(), rope_fraction=1.0) -> dict:
  """The inverse of `rope`, as the separate fields that every version of transformers reads."""
  values = {"rope_theta": rope_base}
  if rope_fraction != 1.0:
    values["partial_rotary_factor"] = rope_fraction
  if rope_scaling:
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    kind, *numbers = rope_scaling
    values["rope_scaling"] = {"rope_type": kind, **dict(zip(names, numbers, strict=False))}
  return values
