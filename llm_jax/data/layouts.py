"""How a text, or two, is framed for a model that says something of it.

  layout      row                                       read by pooling
  classifier  [CLS] text [SEP] (text_b [SEP])           pooler, first, mean
  extract     <start> text (<delimiter> text_b) <end>   last
  plain       text ([SEP] text_b)                       last, mean

Sources: of classifier Devlin et al. 2018, arXiv:1810.04805, section 4.1; of extract, whose end is
a token of its own, Radford et al. 2018, "Improving Language Understanding by Generative
Pre-Training", section 3.3.
"""

from llm_jax.data.special_tokens import CLASSIFIER, DELIMITER, EXTRACT, SEPARATOR
from llm_jax.data.tokenizers import Vocabulary
from llm_jax.errors import UserError

LAYOUTS = {
  "classifier": ("pooler", "first", "mean"),
  "extract": ("last",),
  "plain": ("last", "mean"),
}


def special_tokens(layout: str, pairs: bool = False) -> tuple:
  """What a tokenizer must have for a layout, as an objective's SPECIAL_TOKENS."""
  always = {"classifier": (CLASSIFIER, SEPARATOR), "extract": (EXTRACT,), "plain": ()}
  second = {"classifier": (), "extract": (DELIMITER,), "plain": (SEPARATOR,)}
  return always[layout] + (second[layout] if pairs else ())


def frame(layout: str, vocabulary: Vocabulary, pairs: bool = False) -> tuple[list[int], ...]:
  """The ids before the text, between it and the second, and after the last."""
  if layout == "classifier":
    separator = [vocabulary.id_of(SEPARATOR)]
    return [vocabulary.id_of(CLASSIFIER)], separator, separator
  if layout == "extract":
    delimiter = [vocabulary.id_of(DELIMITER)] if pairs else []
    return [vocabulary.begin_id], delimiter, [vocabulary.id_of(EXTRACT)]
  return [], [vocabulary.id_of(SEPARATOR)] if pairs else [], []


def check_model(layout: str, spec) -> None:
  """Refuses a model whose pooling does not read what the layout puts there.

  Raises:
    UserError: it names the layouts that suit.
  """
  if spec.pooling not in LAYOUTS[layout]:
    fitting = [name for name, poolings in LAYOUTS.items() if spec.pooling in poolings]
    raise UserError(
      f"The layout {layout!r} is read with model.pooling {' or '.join(LAYOUTS[layout])}; found "
      f"{spec.pooling!r}, which suits --config.objective_options.layout={' or '.join(fitting)}."
    )
  if spec.kind == "decoder" and spec.pooling in ("pooler", "first"):
    raise UserError(
      f"model.pooling={spec.pooling!r} reads a decoder where it has seen no text yet. Take last or "
      "mean."
    )
