"""Published checkpoints as run folders, and run folders as published checkpoints."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from llm_jax.config import base
from llm_jax.data import tokenizer_files, tokenizers
from llm_jax.data.tokenizers import Tokenizer
from llm_jax.errors import UserError
from llm_jax.inference import settings
from llm_jax.interop import files
from llm_jax.interop.pretrained import load_pretrained, save_pretrained
from llm_jax.models import build
from llm_jax.models.spec import Spec, model_config
from llm_jax.training import checkpoints, inputs, runs, workdir
from llm_jax.training.step import TrainState
from llm_jax.writing import unfinished

_ROW = 512  # tokens of a row that an imported model is scored in, if it has as many positions


def import_run(source: Path | str, folder: Path | str, tokenizer: str | None = None) -> str:
  """Makes a run folder of a published checkpoint: what `evaluate`, `generate` and `init_from` read.

  Args:
    source: as of `load_pretrained`.
    folder: the run folder; new or empty.
    tokenizer: path of a published tokenizer, see `tokenizers.load`; None: the one beside the
      weights, if there is one.

  Returns:
    one sentence on what was made.

  Raises:
    UserError: a checkpoint that cannot be read, a folder that is not empty.
  """
  with _new_folder(Path(folder)) as made:
    model, params = load_pretrained(source)
    text = _import_tokenizer(Path(tokenizer or source), made, given=tokenizer is not None)
    config = _config(model.spec, text, Path(folder))
    if text is not None:
      inputs.model_config(config, text)  # refuses a tokenizer with more ids than the model
    _import_generation(Path(source).expanduser(), made)
    workdir.write_json(made / "config.json", config.to_dict())
    workdir.write_json(made / "environment.json", workdir.environment())
    _save(made, config, params, text)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  about = "" if text else f"; it has no tokenizer: put its {inputs.TOKENIZER} there for text"
  return f"{count:,} parameters of {source} are in {folder}{about}."


def export_run(folder: Path | str, target: Path | str, step: str = "best") -> str:
  """Writes a run as the published checkpoint that transformers opens.

  Args:
    folder: the run folder.
    target: a folder, new or empty.
    step: the checkpoint: a number, "latest" or "best".

  Returns:
    one sentence on what was written.

  Raises:
    UserError: no such run, a model of no published family, a target that is not empty.
  """
  folder, target = Path(folder), Path(target)
  with _new_folder(target) as made:
    text = None
    if (folder / inputs.TOKENIZER).exists():
      run = runs.read(folder, step)
      model, params, text = run.model, run.params, run.tokenizer
      _export_tokenizer(text, made)
    else:
      config = workdir.read_config(folder)
      model = build.build(config.model, config.dtype)
      params = checkpoints.load_params(folder, step)
    if generation := _generation(model.spec, text, folder):
      files.write_json(made / settings.FILE, generation)
    save_pretrained(made, model, params)
  return f"{folder} is in {target}: {', '.join(sorted(p.name for p in target.iterdir()))}."


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
  """A folder to write into, which becomes the target once all of it is there.

  Raises:
    UserError: the target is a file, or holds something, or cannot be made.
  """
  if target.is_dir() and any(target.iterdir()):
    raise UserError(f"{target} is not empty, and nothing is overwritten. Choose another folder.")
  if target.exists() and not target.is_dir():
    raise UserError(f"Expected a folder at {target}; found a file. Choose another.")
  made = unfinished(target.absolute())
  with workdir.disk_errors(target):
    try:
      made.mkdir(parents=True)
      yield made
      made.rename(target)  # onto an empty folder too; an error if it has been filled meanwhile
    finally:
      shutil.rmtree(made, ignore_errors=True)


def _config(spec: Spec, text: Tokenizer | None, folder: Path):
  """A run's config around an imported model."""
  config = base()
  chosen = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
  chosen["layers"] = {name: dict(fields) for name, fields in spec.layers.items()}
  config.model = model_config(**chosen)
  config.objective = _objective(spec)
  config.seq_len = min(spec.max_length or _ROW, _ROW)
  config.steps = 1  # of which none has been made
  config.tokenizer.name = str(folder / inputs.TOKENIZER)
  config.tokenizer.vocab_size = text.vocab_size if text else spec.vocab_size
  return config


def _objective(spec: Spec) -> str:
  """What trains a model of this kind on running text; "" without the head for it."""
  objective, head = {
    "decoder": ("next_token", "language_model"),
    "encoder": ("masked_lm", "masked_lm"),
    "encoder_decoder": ("span_corruption", "language_model"),
  }[spec.kind]
  return objective if head in spec.heads else ""


def _save(folder: Path, config, params, text: Tokenizer | None) -> None:
  """The checkpoint of step 0: parameters, and no optimizer to go on with."""
  zero = jnp.zeros((), jnp.int32)
  state = TrainState(zero, params, (), jax.random.PRNGKey(0), zero, zero, schedule=None)
  identity = {
    "vocab_size": config.model.vocab_size if text is None else text.vocab_size,
    "tokenizer": None if text is None else text.sha256,
    "text": inputs.load_text(config).sha256,
    "tokens": None,
  }
  with checkpoints.Checkpoints(folder, config.checkpoint) as saved:
    saved.save(0, state, {"tokens": 0, "seconds": 0.0, "iterator": {}, "identity": identity})
    saved.wait()


# -------------------------------------------------------------------------------- tokenizers


def _import_tokenizer(source: Path, folder: Path, given: bool) -> Tokenizer | None:
  """Puts the tokenizer that lies with published weights, or the one given, into a run folder."""
  source = source.expanduser()
  beside = source if given or source.is_dir() else source.parent
  if not given and not tokenizer_files.candidates(beside):
    return None
  tokenizers.load(beside).save(folder / inputs.TOKENIZER)
  return tokenizers.load(folder)  # what the run will read, and be compared with


def _export_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
  """tokenizer.json and its settings; where it came with none, those by which readers find the
  tokens around a text."""
  tokenizer.save(folder / inputs.TOKENIZER)
  if tokenizer.settings:
    return
  names = {index: name for name, index in tokenizer.vocabulary.special}
  begin, end = names[tokenizer.begin_id], names[tokenizer.end_id]
  settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "bos_token": begin}
  files.write_json(folder / tokenizers.SETTINGS[0], settings)


def _import_generation(source: Path, folder: Path) -> None:
  """Puts what a published folder says of decoding into a run folder; config.json of older ones."""
  if (source / settings.FILE).exists():
    shutil.copyfile(source / settings.FILE, folder / settings.FILE)
    settings.read(folder)  # refuses what `generate` would refuse
  elif (source / files.CONFIG).exists():
    config = files.read_json(source / files.CONFIG)
    found = {name: config[name] for name in settings.NAMES if config.get(name) is not None}
    files.write_json(folder / settings.FILE, found)


def _generation(spec: Spec, text: Tokenizer | None, folder: Path) -> dict:
  """generation_config.json: what the run was imported with, and the tokens that decoding begins and
  ends with, as far as known."""
  if "language_model" not in spec.heads or spec.kind == "encoder":
    return {}
  there = folder / settings.FILE
  imported = files.read_json(there) if there.exists() else {}
  answers = spec.kind == "encoder_decoder"
  found = {"decoder_start_token_id": spec.decoder_start_id} if answers else {}
  if text is not None:
    found["eos_token_id"] = imported.get("eos_token_id", text.end_id)  # there may be several
    if not answers or text.begin_id != text.end_id:  # sources may have no token before them
      found["bos_token_id"] = text.begin_id
    if text.pad_id is not None:
      found["pad_token_id"] = text.pad_id
  return {**imported, **found}
