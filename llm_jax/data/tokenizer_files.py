"""Tokenizers of published checkpoints: which files there are, and what they say.

tokenizer.json              of the `tokenizers` package, or our own of a World vocabulary
vocab.json and merges.txt   byte-level BPE, as of GPT-2
vocab.txt                   WordPiece, as of BERT
*.model                     sentencepiece, unigram or BPE
rwkv_vocab*.txt             the World vocabulary
"""

import contextlib
import json
import re
from pathlib import Path

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from llm_jax.data import special_tokens
from llm_jax.data.world_vocabulary import WorldVocabulary
from llm_jax.errors import UserError

# What lies beside a published tokenizer and goes wherever that goes, unchanged; the names of
# tokens are in the first two, of which the first counts.
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
# Kinds of pieces in a sentencepiece model.
_NORMAL, UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_EXPECTED = (
  "Expected a tokenizer.json, vocab.json with merges.txt, vocab.txt (WordPiece), a sentencepiece "
  "*.model, rwkv_vocab*.txt, or a folder that holds one"
)
_SPACE = "\u2581"  # how sentencepiece writes a space


def candidates(folder: Path) -> list[Path]:
  """The tokenizers of a folder: its tokenizer.json, which is a whole definition, and else every
  file that one could be read from."""
  if (folder / "tokenizer.json").exists():
    return [folder / "tokenizer.json"]
  found = [*folder.glob("*.model"), *folder.glob("*.model.v*"), *folder.glob("rwkv_vocab*.txt")]
  if (folder / "vocab.txt").exists():
    found.append(folder / "vocab.txt")
  if (folder / "merges.txt").exists() and "\u0120" in _json(folder / "vocab.json"):
    found.append(folder / "vocab.json")
  return sorted(found)


def read(path: Path) -> tuple:
  """A published tokenizer: its definition, its end and begin tokens, and `SETTINGS` beside it.

  The end token is the `eos_token` or `sep_token` that they or the file name, else the first of
  `special_tokens.END` in the vocabulary. The begin token is the one that the definition itself puts
  before a text, else their `bos_token` or `cls_token`, else the end token.

  Args:
    path: one of the files above, or a folder that holds one.

  Raises:
    UserError: no such file, more than one, one that cannot be read, or no token that ends a
      document.
  """
  file = _choose(path) if path.is_dir() else path
  settings = {}
  for name in SETTINGS:
    with contextlib.suppress(OSError, UnicodeDecodeError):
      settings[name] = (file.parent / name).read_bytes().decode()
  definition, own = _definition(file)
  definition.no_padding()  # or an empty text would seem to begin with padding
  if own and not settings:  # so that copies know them too
    own = {"tokenizer_class": "PreTrainedTokenizerFast", **own}
    settings[SETTINGS[0]] = json.dumps(own, indent=2) + "\n"
  tokens = own | named(definition, settings)
  ends = (tokens.get("eos_token"), tokens.get("sep_token"), *special_tokens.END)
  end = next((end for end in ends if end and definition.token_to_id(end) is not None), None)
  if end is None:
    raise UserError(
      f"{file} has no token that ends a document. Expected one of {', '.join(special_tokens.END)}, "
      "or the `eos_token` of a tokenizer_config.json beside it."
    )
  around = definition.encode("")
  begin = around.tokens[0] if any(around.special_tokens_mask[:1]) else None
  begin = begin or tokens.get("bos_token") or tokens.get("cls_token")
  return definition, end, begin, settings


def named(definition, settings: dict[str, str]) -> dict[str, str]:
  """{"eos_token": "</s>", ...}: the tokens that settings name and the definition has."""
  found = {}
  for file in reversed(SETTINGS[:2]):
    try:
      entries = dict(json.loads(settings.get(file, "{}")))
    except (ValueError, TypeError):
      continue
    for key, value in entries.items():
      name = value.get("content") if isinstance(value, dict) else value
      known = isinstance(name, str) and definition.token_to_id(name) is not None
      if known and key.endswith("_token"):
        found[key] = name
  return found


def _choose(folder: Path) -> Path:
  found = candidates(folder)
  if not found:
    raise UserError(f"No tokenizer at {str(folder / 'tokenizer.json')!r}. {_EXPECTED}.")
  if len(found) > 1:
    names = ", ".join(file.name for file in found)
    raise UserError(f"{folder} holds several tokenizers: {names}. Give the path of one of them.")
  return found[0]


def _definition(file: Path) -> tuple:
  """The definition of one file, and the special tokens it names itself, as `named`."""
  try:
    data = file.read_bytes()
  except FileNotFoundError:
    raise UserError(
      f"No tokenizer at {str(file)!r}. {_EXPECTED}, or the name of one to be trained."
    ) from None
  except OSError as error:
    raise UserError(f"{file} cannot be read as a tokenizer: {error}.") from None
  if file.suffix == ".model" or ".model." in file.name:
    if file.name == "sentencepiece.bpe.model":
      raise UserError(
        f"{file} is of a kind whose checkpoints count its pieces from another number, which is not "
        "in the file. Give the tokenizer.json of the same checkpoint."
      )
    return _sentencepiece(data, file)
  try:
    text = data.decode("utf-8")
  except UnicodeDecodeError as error:
    raise UserError(f"{file} cannot be read as a tokenizer: {error}.") from None
  if file.name in ("vocab.json", "merges.txt"):
    return _merges(file.parent), {}
  if file.suffix == ".txt":
    world = re.match(r"\d+ b?['\"].*['\"] \d+\r?\n", text)
    return _world(text, file) if world else _wordpiece(text, file)
  try:
    read = WorldVocabulary if WorldVocabulary.wrote(text) else tokenizers.Tokenizer
    return read.from_str(text), {}
  except Exception as error:  # the package raises plain Exception
    raise UserError(f"{file} is not a tokenizer.json: {error}.") from None


def _json(file: Path) -> dict:
  """The object in a file; an empty one where there is none."""
  try:
    found = json.loads(file.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


# ---------------------------------------------------------------------- vocabularies as text


def _merges(folder: Path) -> tokenizers.Tokenizer:
  vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
  for file in (vocabulary, merges):
    if not file.exists():
      raise UserError(f"{vocabulary} and {merges} belong together; there is no {file.name}.")
  if "\u0120" not in _json(vocabulary):
    raise UserError(
      f"{vocabulary} is not of byte-level BPE: no \u0120, which is how it writes a space. Give the "
      "tokenizer.json of the same checkpoint."
    )
  try:
    definition = tokenizers.Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
  except Exception as error:
    raise UserError(f"{vocabulary} and {merges} cannot be read: {error}.") from None
  definition.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  definition.decoder = decoders.ByteLevel()
  return definition


def _wordpiece(text: str, file: Path) -> tuple:
  """BERT's: a piece a line, whose number is its id. Source: arXiv:1810.04805, and its code."""
  lines = text.removesuffix("\n").split("\n")
  pieces = {line.removesuffix("\r"): index for index, line in enumerate(lines)}
  known = {
    "unk_token": special_tokens.UNKNOWN,
    "cls_token": special_tokens.CLASSIFIER,
    "sep_token": special_tokens.SEPARATOR,
    "pad_token": special_tokens.PAD,
    "mask_token": special_tokens.MASK,
  }
  found = {key: [name for name in names if name in pieces] for key, names in known.items()}
  special = {key: names[0] for key, names in found.items() if names}
  if not {"unk_token", "cls_token", "sep_token"} <= special.keys():
    raise UserError(f"{file} is no WordPiece vocabulary: it lacks [UNK], [CLS] or [SEP].")
  first, last = special["cls_token"], special["sep_token"]
  given = _json(file.with_name(SETTINGS[0]))
  # A vocabulary with no capital letters was made from text without them.
  ordinary = (piece for piece in pieces if piece not in special.values() and piece[:1] != "[")
  lower = given.get("do_lower_case", not any(piece != piece.lower() for piece in ordinary))
  definition = tokenizers.Tokenizer(models.WordPiece(pieces, unk_token=special["unk_token"]))
  definition.normalizer = normalizers.BertNormalizer(
    lowercase=lower,
    strip_accents=given.get("strip_accents"),
    handle_chinese_chars=given.get("tokenize_chinese_chars", True),
  )
  definition.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  definition.post_processor = processors.BertProcessing(
    (last, pieces[last]), (first, pieces[first])
  )
  definition.decoder = decoders.WordPiece()
  definition.add_special_tokens(list(special.values()))
  return definition, special


def _world(text: str, file: Path) -> tuple:
  try:
    definition = WorldVocabulary.from_file(text)
  except ValueError as error:
    raise UserError(f"{file} is no World vocabulary: {error}.") from None
  definition.add_special_tokens(special_tokens.END[:1])
  return definition, {"eos_token": special_tokens.END[0]}


# ---------------------------------------------------------------------------- sentencepiece


def sentencepiece_model(data: bytes) -> sentencepiece_model_pb2.ModelProto:
  """The pieces, scores and settings in the bytes of a .model file."""
  return sentencepiece_model_pb2.ModelProto.FromString(data)


def score(piece) -> float:
  """A piece's score, a float32, by its nine digits: the `tokenizers` package does not read back all
  the digits of a double that it writes."""
  return float(f"{piece.score:.9g}")


def _sentencepiece(data: bytes, file: Path) -> tuple:
  """The same pieces in a definition of the `tokenizers` package.

  Its ids are sentencepiece's own but where two ways to cut a text have the same score to the last
  bits, such as runs of one character.
  """
  try:
    model = sentencepiece_model(data)
  except Exception as error:
    raise UserError(f"{file} is not a sentencepiece model: {error}.") from None
  spec, rules = model.trainer_spec, model.normalizer_spec
  kinds = {piece.piece: piece.type for piece in model.pieces}
  user_defined = [name for name, kind in kinds.items() if kind == _USER_DEFINED]
  if not kinds or spec.model_type not in (spec.UNIGRAM, spec.BPE):
    raise UserError(f"{file} is no sentencepiece model of the types unigram and BPE.")
  unigram = spec.model_type == spec.UNIGRAM
  # Symbols of the user's own are found before anything else, which is the same only for these.
  plain = not (unigram or rules.precompiled_charsmap or rules.add_dummy_prefix)
  if spec.treat_whitespace_as_suffix or (user_defined and not plain):
    raise UserError(
      f"{file} writes spaces behind words, or has symbols of the user's own such as "
      f"{user_defined[:1]} in a model of this kind, which is not read. Give the tokenizer.json of "
      "the same checkpoint."
    )
  definition = tokenizers.Tokenizer(_unigram(model) if unigram else _bpe(model, kinds))
  definition.normalizer = _normalizer(rules)
  if unigram:
    definition.pre_tokenizer = _apart([name for name, kind in kinds.items() if kind != _NORMAL])
  steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
  steps += [decoders.Strip(" ", 1, 0)] if rules.add_dummy_prefix else []
  definition.decoder = decoders.Sequence(steps)
  definition.add_special_tokens(
    [name for name, kind in kinds.items() if kind in (UNKNOWN, _CONTROL)]
  )
  definition.add_tokens([AddedToken(name, normalized=True) for name in user_defined])
  special = _named_pieces(spec, kinds)
  begin, end = special.get("bos_token"), special.get("eos_token")
  if begin or end:  # as the models that publish such files have it
    template = f"{begin} $A" if begin else f"$A {end}"
    definition.post_processor = processors.TemplateProcessing(
      template, special_tokens=[(begin or end, definition.token_to_id(begin or end))]
    )
  return definition, special


def _named_pieces(spec, kinds: dict[str, int]) -> dict[str, str]:
  """The special tokens of a model, as `named`."""
  found = {}
  for name in ("bos", "eos", "pad", "unk"):
    piece = getattr(spec, f"{name}_piece")
    if getattr(spec, f"{name}_id") >= 0 and piece in kinds:
      found[f"{name}_token"] = piece
  return found


def _unigram(model) -> models.Unigram:
  spec, pieces = model.trainer_spec, [(piece.piece, score(piece)) for piece in model.pieces]
  return models.Unigram(pieces, unk_id=spec.unk_id, byte_fallback=spec.byte_fallback)


def _bpe(model, kinds: dict[str, int]) -> models.BPE:
  """Sentencepiece merges the two neighbours whose joint piece has the highest score: for each
  piece every way to halve it is a merge, in the order of scores, then of ids."""
  ids = {piece.piece: index for index, piece in enumerate(model.pieces)}
  merges = []
  for piece, index in ids.items():
    if kinds[piece] != _NORMAL:  # the others are never made of text
      continue
    for cut in range(1, len(piece)):
      left, right = piece[:cut], piece[cut:]
      if kinds.get(left) == kinds.get(right) == _NORMAL:
        merges.append((-model.pieces[index].score, index, ids[left], ids[right], left, right))
  return models.BPE(
    ids,
    [(left, right) for *_, left, right in sorted(merges)],
    unk_token=model.trainer_spec.unk_piece,
    fuse_unk=True,
    byte_fallback=model.trainer_spec.byte_fallback,
  )


def _normalizer(rules) -> normalizers.Sequence:
  steps = []
  if rules.precompiled_charsmap:
    steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
  if rules.remove_extra_whitespaces:
    steps += [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
  if rules.add_dummy_prefix:
    steps.append(normalizers.Prepend(" "))
  return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])


def _apart(names: list[str]) -> pre_tokenizers.PreTokenizer:
  """Cuts a text within these names, so that no text becomes the piece of that name: the unigram
  model takes every piece it finds, control tokens among them."""
  inside = "|".join(f"(?<={re.escape(name[:1])})(?={re.escape(name[1:])})" for name in names)
  return pre_tokenizers.Split(tokenizers.Regex(inside), "isolated")
