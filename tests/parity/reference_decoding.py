"""The torch side of parity in decoding: what transformers' `generate` makes of ragged prompts."""

import types
import warnings

import numpy as np
import tokenizers
import torch
import transformers

from tests.parity import decoding, harness, reference

LETTERS = "abcdef"


def open_model(case: harness.Case):
  model, info = reference.open_folder(harness.folder_of(case), case.model)
  assert info == {}
  return model


def decoded(model, batches, options: dict, ends: list[int], tokenizer=None) -> list:
  """The new ids of every row of every batch, up to and with the end token."""
  return [row for batch in batches for row in _decoded(model, batch, options, ends, tokenizer)]


def texts(size: int):
  """One to three letters a token: what `generate` wants of a tokenizer, and transformers'."""
  rng, pieces = np.random.RandomState(1), list(LETTERS)
  while len(pieces) < size:
    piece = "".join(rng.choice(list(LETTERS), rng.randint(1, 4)))
    pieces += [piece] if piece not in pieces else []
  model = tokenizers.models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="a")
  theirs = tokenizers.Tokenizer(model)
  theirs.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
  theirs.decoder = tokenizers.decoders.Fuse()
  ours = types.SimpleNamespace(
    begin_id=0,
    end_id=0,
    decode=lambda ids, special, after: "".join(pieces[token] for token in ids),
    stream=lambda special, after: types.SimpleNamespace(push=pieces.__getitem__, flush=str),
  )
  return ours, transformers.PreTrainedTokenizerFast(tokenizer_object=theirs)


def _decoded(model, batch, options, ends, tokenizer):
  config = _config(model, options, ends)
  longest = max(map(len, batch))
  answers = model.config.is_encoder_decoder  # whose sources are padded at the right
  ids = torch.full((len(batch), longest), decoding.PAD)
  for row_ids, row in zip(ids, batch, strict=True):
    row_ids[slice(len(row)) if answers else slice(longest - len(row), None)] = torch.tensor(row)
  lengths = torch.tensor([[len(row)] for row in batch])
  columns = torch.arange(longest)[None]
  mask = columns < lengths if answers else columns >= longest - lengths
  model.generation_config = transformers.GenerationConfig()
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    found = model.generate(
      ids, attention_mask=mask.long(), generation_config=config, tokenizer=tokenizer
    )
  return [_cut(row[1 if answers else longest :].tolist(), ends) for row in found]


def _cut(row, ends):
  """Without what fills up the row behind its end."""
  return row[: next((i for i, token in enumerate(row) if token in ends), len(row) - 1) + 1]


def _config(model, options, ends):
  """The same options by transformers' names."""
  given = {name: value for name, value in options.items() if name not in ("method", "logit_bias")}
  if "logit_bias" in options:
    given["sequence_bias"] = [[[token], bias] for token, bias in options["logit_bias"].items()]
  return transformers.GenerationConfig(
    **given,
    do_sample=False,
    eos_token_id=ends or None,
    pad_token_id=decoding.PAD,
    decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
  )
