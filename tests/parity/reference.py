"""The torch side of parity: what transformers makes of a case. Imported only where both exist.

Legend: B batch, T position, D model, V vocabulary.
"""

import pathlib
import re
import tempfile
import warnings

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers.utils import logging

from tests.parity import harness
from tests.parity.harness import Case, Numbers

torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()

VERSION = f"transformers {transformers.__version__}"
MARGIN = 1e-4  # between the two likeliest tokens: closer, and rounding decides which is greedy
_HEADS = {
  "logits": "language_model",
  "prediction_logits": "masked_lm",
  "seq_relationship_logits": "next_sentence",
  "pooler_output": "pooler",
}


def create(case: Case, folder: pathlib.Path) -> tuple[list, dict]:
  """Writes the case's checkpoint as the reference would, with drawn weights.

  Returns:
    [[name, shape], ...] of the drawn tensors, and {name: array} of those kept as they were.
  """
  model_class = getattr(transformers, case.model)
  torch.manual_seed(0)
  model_class._from_config(model_class.config_class(**case.config)).save_pretrained(folder)
  path = folder / "model.safetensors"
  tensors = load_file(path)
  kept = {
    name: value
    for name, value in tensors.items()
    if value.dtype != np.float32 or any(re.search(pattern, name) for pattern in case.keep)
  }
  drawn = [[name, list(value.shape)] for name, value in tensors.items() if name not in kept]
  values = {name: harness.draw(case, name, shape) for name, shape in drawn}
  save_file(values | kept, path, metadata={"format": "pt"})
  return drawn, kept


def open_folder(folder, name: str):
  """The reference's model of a folder, and what it says of leftover or missing tensors."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    model, info = getattr(transformers, name).from_pretrained(
      folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
  return model.eval(), {key: sorted(value) for key, value in info.items() if value}


def aliases(model, folder) -> dict[str, str]:
  """{name of a tied copy: the name that the file has}."""
  written = load_file(pathlib.Path(folder) / "model.safetensors").keys()
  named = list(model.named_parameters(remove_duplicate=False))
  in_file = {id(value): name for name, value in named if name in written}
  return {n: in_file[id(v)] for n, v in named if n not in written and id(v) in in_file}


def numbers(case: Case, model) -> Numbers:
  """Outputs, gradients and greedy tokens; the gradients take the place of the model's weights."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ids = [_greedy(case, model, prompt) for prompt in case.prompts] if case.greedy else []
    for _, buffer in _saved_buffers(model):
      buffer.requires_grad_()
    found = outputs(case, model)
    log_softmax = lambda x: torch.log_softmax(x, -1)
    harness.loss_of(case, found, torch.from_numpy, log_softmax).backward()
    found = {name: value.detach().numpy() for name, value in found.items()}
    return Numbers(found, _gradients(case, model), ids)


def outputs(case: Case, model) -> dict:
  """ "hidden" and the heads by our names, tensors that remember their graph."""
  batch = {name: torch.from_numpy(array).long() for name, array in case.batch.items()}
  arguments = {"input_ids": batch["tokens"], "attention_mask": batch["segments"]}
  if case.kind == "encoder_decoder":
    arguments = {"input_ids": batch["source"], "attention_mask": batch["source_segments"]}
    arguments["decoder_input_ids"] = batch["tokens"]
  if "token_types" in batch:
    arguments["token_type_ids"] = batch["token_types"]
  if case.kind != "encoder":
    arguments["use_cache"] = False
  seen = []
  hook = model.base_model.register_forward_hook(lambda module, inputs, output: seen.append(output))
  result = model(**arguments, output_hidden_states=case.hidden)
  hook.remove()
  names = _HEADS | ({"logits": "masked_lm"} if case.kind == "encoder" else {})
  if "NextSentence" in case.model:
    names["logits"] = "next_sentence"
  found = {ours: result[name] for name, ours in names.items() if result.get(name) is not None}
  if case.hidden:
    found["hidden"] = _hidden(seen[0], result)
  return found


def _hidden(base, result):
  if base.get("last_hidden_state") is not None:
    return base["last_hidden_state"]
  return (result.get("decoder_hidden_states") or result["hidden_states"])[-1]


def _saved_buffers(model):
  saved = model.state_dict().keys()
  return [(n, b) for n, b in model.named_buffers() if n in saved and b.is_floating_point()]


def _gradients(case: Case, model) -> dict:
  """By the names of the file: written by the reference as if they were weights."""
  for _, value in [*model.named_parameters(), *_saved_buffers(model)]:
    value.data = torch.zeros_like(value) if value.grad is None else value.grad
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    tensors = load_file(pathlib.Path(folder) / "model.safetensors")
  kept = lambda name: any(re.search(pattern, name) for pattern in case.keep)
  return {n: v for n, v in tensors.items() if v.dtype == np.float32 and not kept(n)}


def _greedy(case: Case, model, prompt) -> list[int]:
  start = getattr(model.config, "decoder_start_token_id", None)
  model.generation_config = transformers.GenerationConfig(
    max_new_tokens=case.greedy,
    pad_token_id=getattr(model.config.get_text_config(), "pad_token_id", None) or 0,
    decoder_start_token_id=start,
    return_dict_in_generate=True,
    output_logits=True,
  )
  made = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)).long())
  best = torch.stack(made.logits)[:, 0].topk(2).values
  margin = float((best[:, 0] - best[:, 1]).min())
  if margin < MARGIN:
    raise ValueError(
      f"{case.name}: two tokens are {margin:.1e} apart in greedy decoding, so rounding decides "
      "between them. Give the case another name, from which its prompts are drawn."
    )
  return made.sequences[0, -case.greedy :].tolist()
