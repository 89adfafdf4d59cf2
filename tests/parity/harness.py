"""Parity with published implementations: one case is a tiny checkpoint, and what must come of it.

The weights of a case are drawn from the tensors' names and shapes, so a golden file holds no
weights: config.json, names and shapes, and the numbers of the reference implementation. The same
folder is read by the reference (`tests/parity/reference.py`, needs torch) and by us.

Legend: B batch, T position, S source position, D model, V vocabulary.
"""

import dataclasses
import functools
import importlib
import json
import math
import pathlib
import re
import tempfile
import zlib
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

import llm_jax
from llm_jax.interop.pretrained import load_pretrained, save_pretrained

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
LOGITS, GRADIENT = 1e-4, 1e-3  # the tolerances of every case
# A gradient below this share of the largest is measured by that: key biases have none but rounding.
SMALL = 1e-3
_FIRST_ID = 4  # below are the ids that configs give to padding, start and end


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """A tiny model of a published family.

  Attributes:
    name: of the golden file, "gpt2-odd"; token ids are drawn from it.
    model: the reference's class, "GPT2LMHeadModel".
    config: arguments of its config class.
    kind: decoder, encoder or encoder_decoder.
    length, source_length: of the batch of two rows; the second ends in `padding` fewer tokens.
    padding: at the right of the second row, of source and target alike.
    scale: of the random matrices, embeddings aside; 1 keeps the variance of a normalised input.
    draw: {regex of a tensor's name: (mean, standard deviation)}, before the rules of `draw`.
    keep: regexes of tensors that stay as the reference makes them (tables of sinusoids).
    greedy: tokens to decode, where the learned positions allow as many; 0: none.
    hidden: whether the reference hands out hidden states after its final norm.
  """

  name: str
  model: str
  config: dict
  kind: str = "decoder"
  length: int = 13
  source_length: int = 11
  padding: int = 4
  scale: float = 1.0
  draw: dict = dataclasses.field(default_factory=dict)
  keep: tuple[str, ...] = ()
  greedy: int = 64
  hidden: bool = True

  @property
  def vocab(self) -> int:
    return self.config["vocab_size"]

  @functools.cached_property
  def batch(self) -> dict:
    """What both sides read: int32 arrays by name; segments are 0 at the padding at the right."""
    rng = np.random.RandomState(_seed(self.name))
    tokens, segments = self._rows(rng, self.length)
    if self.kind == "encoder_decoder":
      source, source_segments = self._rows(rng, self.source_length)
      return {
        "source": source,
        "source_segments": source_segments,
        "tokens": tokens,
        "segments": segments,
      }
    found = {"tokens": tokens, "segments": segments}
    types = self.config.get("type_vocab_size", 0)
    if self.kind == "encoder" and types > 1:
      found["token_types"] = np.where(segments, rng.randint(0, types, tokens.shape), 0)
    return {name: array.astype(np.int32) for name, array in found.items()}

  def _rows(self, rng, length):
    tokens = rng.randint(_FIRST_ID, self.vocab, (2, length)).astype(np.int32)
    segments = np.ones_like(tokens)
    if self.padding:
      segments[1, -self.padding :] = 0
      tokens[1, -self.padding :] = self.config.get("pad_token_id") or 0
    return tokens, segments

  @property
  def prompts(self) -> list[list[int]]:
    """Ragged prompts of greedy decoding; whole sources for an encoder-decoder."""
    if self.kind == "encoder_decoder":
      lengths = self.batch["source_segments"].sum(1)
      return [row[:n].tolist() for row, n in zip(self.batch["source"], lengths, strict=True)]
    return [self.batch["tokens"][0, :5].tolist(), self.batch["tokens"][1, :3].tolist()]


def _seed(text: str) -> int:
  return zlib.crc32(text.encode())


def draw(case: Case, name: str, shape) -> np.ndarray:
  """The random values of one tensor, float32: the same in every file that has its name and shape.

  Vectors called weight are norms', around 1. Positions are large, so that no greedy decoding ends
  in one token for ever. Matrices keep the variance of their input, on whichever side that stands.
  """
  normal = np.random.RandomState(_seed(f"{name}{tuple(shape)}")).standard_normal(tuple(shape))
  for pattern, (mean, deviation) in case.draw.items():
    if re.search(pattern, name):
      return (mean + deviation * normal).astype(np.float32)
  if name.endswith("bias"):
    values = 0.2 * normal
  elif len(shape) <= 1:
    values = float(name.endswith("weight")) + 0.2 * normal
  elif re.search("wpe|position|relative", name):
    values = normal
  elif re.search("wte|embed|shared", name):
    values = 0.4 * normal
  else:
    values = case.scale * normal / math.sqrt(min(shape[-2:]))
  return values.astype(np.float32)


def families() -> dict[str, ModuleType]:
  """Every `tests/parity/<family>.py` that has CASES, found on disk.

  Its docstring begins with the family's name and a colon; TRAINED, if it is there, says what
  trained checkpoint the tests try.
  """
  files = sorted(pathlib.Path(__file__).parent.glob("*.py"))
  # Others are not imported: the references need what only the live comparison needs.
  names = [path.stem for path in files if "\nCASES = " in path.read_text()]
  return {name: importlib.import_module(f"tests.parity.{name}") for name in names}


def title(module: ModuleType) -> str:
  """The family's name, with which its file begins."""
  return module.__doc__.split(":")[0]


@dataclasses.dataclass
class Numbers:
  """What a model makes of a case's batch.

  Attributes:
    outputs: "hidden" and each head by our name; undefined at padding.
    gradients: of the loss, by the tensor's name in the file.
    ids: the greedy tokens of each prompt.
    summarised: gradients are their `summary`.
  """

  outputs: dict
  gradients: dict
  ids: list
  summarised: bool = False


def projection(name: str, width: int) -> np.ndarray:
  """What makes one number of an output that is no distribution over next tokens."""
  return np.random.RandomState(_seed(name)).standard_normal(width).astype(np.float32)


def loss_of(case: Case, outputs: dict, asarray, log_softmax):
  """The mean token loss of a language model; of an encoder, all outputs randomly projected.

  Args:
    outputs: "hidden" and heads, arrays of either library.
    asarray: numpy -> that library.
    log_softmax: that library's, over the last axis.
  """
  segments = case.batch["segments"]
  if "language_model" in outputs:
    b, t = map(asarray, np.nonzero(segments[:, 1:]))
    targets = asarray(case.batch["tokens"][:, 1:][np.nonzero(segments[:, 1:])])
    return -log_softmax(outputs["language_model"])[b, t, targets].mean()
  b, t = map(asarray, np.nonzero(segments))
  total = 0.0
  for name, values in sorted(outputs.items()):
    rows = values[b, t] if len(values.shape) == 3 else values
    total = total + (rows @ asarray(projection(name, rows.shape[-1]))).mean()
  return total


class Golden:
  """A golden file: the reference's numbers, and what its checkpoint folder is made of.

  Attributes:
    about: case, config.json, [[name, shape], ...] of the file's tensors, tied aliases, versions.
    numbers: the reference's; its gradients are the rows of `summary`.
  """

  def __init__(self, case: Case):
    path = GOLDEN / f"{case.name}.npz"
    if not path.exists():
      raise FileNotFoundError(f"No {path.name}: run `python -m tests.parity.make_golden`.")
    with np.load(path) as file:
      arrays = dict(file)
    self.case, self.about = case, json.loads(str(arrays["about"]))
    if self.about["case"] != described(case):
      raise ValueError(f"{path.name} is of another case: run `python -m tests.parity.make_golden`.")
    self.kept = {k.removeprefix("kept/"): v for k, v in arrays.items() if k.startswith("kept/")}
    outputs = {k.removeprefix("out/"): v for k, v in arrays.items() if k.startswith("out/")}
    gradients = dict(zip(self.about["gradients"], arrays["gradients"], strict=True))
    self.numbers = Numbers(outputs, gradients, arrays["ids"].tolist(), summarised=True)

  def write(self, folder) -> None:
    """The checkpoint folder: config.json and model.safetensors."""
    tensors = {name: draw(self.case, name, shape) for name, shape in self.about["tensors"]}
    save_file(tensors | self.kept, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(self.about["config"]))


def write_golden(case: Case, about: dict, numbers: Numbers, kept: dict) -> None:
  """Commits what `Golden` reads."""
  arrays = {f"out/{name}": masked(case, values) for name, values in numbers.outputs.items()}
  arrays |= {f"kept/{name}": values for name, values in kept.items()}
  about = about | {"case": described(case), "gradients": list(numbers.gradients)}
  np.savez_compressed(
    GOLDEN / f"{case.name}.npz",
    about=json.dumps(about),
    gradients=np.stack([summary(*item) for item in numbers.gradients.items()]),
    ids=np.array(numbers.ids, np.int16),
    **arrays,
  )


def described(case: Case) -> dict:
  """A case as JSON has it."""
  return json.loads(json.dumps(dataclasses.asdict(case)))


def masked(case: Case, values) -> np.ndarray:
  """An output with zeros at padding."""
  values = np.asarray(values, np.float32)
  return values * (case.batch["segments"][:, :, None] > 0) if values.ndim == 3 else values


def summary(name: str, gradient) -> np.ndarray:
  """Of one tensor's gradient: its norm and four random projections."""
  flat = np.asarray(gradient, np.float64).reshape(-1)
  signs = np.random.RandomState(_seed(name)).choice([-1.0, 1.0], (4, flat.size))
  return np.array([np.linalg.norm(flat), *(signs @ flat)])


@functools.cache
def _folders():
  return tempfile.TemporaryDirectory(prefix="parity")


@functools.cache
def folder_of(case: Case) -> pathlib.Path:
  """The checkpoint folder of a case, as its golden file says; it lives as long as the process."""
  folder = pathlib.Path(_folders().name) / case.name
  folder.mkdir(exist_ok=True)
  Golden(case).write(folder)
  return folder


def call(case: Case, model, params):
  """Our Output of the case's batch."""
  batch = {name: jnp.asarray(array) for name, array in case.batch.items()}
  tokens = batch.pop("tokens")
  if case.kind == "encoder_decoder":
    source, segments = batch["source"], batch["source_segments"]
    return model.apply({"params": params}, source, tokens, source_segments=segments)
  return model.apply({"params": params}, tokens, **batch)


@functools.partial(jax.jit, static_argnames=("case", "model"))
def _outputs_and_gradients(case, model, params):
  def loss(params):
    output = call(case, model, params)
    outputs = {**output.heads, **({"hidden": output.hidden} if case.hidden else {})}
    return loss_of(case, outputs, jnp.asarray, jax.nn.log_softmax), outputs

  return jax.grad(loss, has_aux=True)(params)


@functools.cache
def ours(case: Case) -> Numbers:
  """What our model, loaded from the case's folder, makes of its batch; no ids, for `greedy_ids`."""
  model, params = load_pretrained(folder_of(case))
  gradients, outputs = _outputs_and_gradients(case, model, params)
  with tempfile.TemporaryDirectory() as folder:
    save_pretrained(folder, model, gradients)
    gradients = load_file(pathlib.Path(folder) / "model.safetensors")
  return Numbers({name: np.asarray(value) for name, value in outputs.items()}, gradients, [])


def greedy_ids(case: Case) -> list[list[int]]:
  """The tokens our model makes of the case's prompts."""
  if not case.greedy:
    return []
  model, params = load_pretrained(folder_of(case))
  return llm_jax.generate(model, params, case.prompts, max_new_tokens=case.greedy)


def output_differences(case: Case, found: Numbers, expected: Numbers) -> dict[str, float]:
  """Largest difference of each output at real tokens."""
  assert found.outputs.keys() == expected.outputs.keys()
  return {
    name: float(np.abs(masked(case, found.outputs[name]) - masked(case, values)).max())
    for name, values in expected.outputs.items()
  }


def gradient_differences(found: Numbers, expected: Numbers, aliases: dict) -> dict[str, float]:
  """Largest difference of each tensor's gradient, relative to the gradient's largest entry.

  Where `expected` holds summaries, those are compared, relative to a fifth of the gradient's norm:
  about its largest entry, or less, so that an entry that is wrong shows.

  Args:
    aliases: {name of a tied copy: name in the reference's file}; either name will do.
  """
  gradients = {aliases.get(name, name): value for name, value in found.gradients.items()}
  missing = expected.gradients.keys() - gradients.keys()
  assert not missing, f"no gradient of {sorted(missing)}"
  pairs = {name: (gradients[name], value) for name, value in expected.gradients.items()}
  if expected.summarised:
    pairs = {name: (summary(name, ours), value) for name, (ours, value) in pairs.items()}
  sizes = {name: np.abs(value).max() for name, (_, value) in pairs.items()}
  if expected.summarised:
    sizes = {name: value[0] / 5 for name, (_, value) in pairs.items()}
  floor = SMALL * max(sizes.values())
  return {
    name: float(np.abs(ours - value).max() / max(sizes[name], floor))
    for name, (ours, value) in pairs.items()
  }
