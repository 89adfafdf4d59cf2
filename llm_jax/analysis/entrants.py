"""What the names in a comparison stand for: architectures and tasks, each of an experiment.

A name is that of a file in `experiments/`, with a mode behind a colon if it has some
("synthetic:parity"), or of an entry in `compare.variants`:

  {"nope": {"experiment": "llama", "title": "no positions",
            "changes": {"model": {"layers": {"attention": {"positions": "none"}}}}}}
"""

import dataclasses

from ml_collections import ConfigDict

from llm_jax import config as config_schema
from llm_jax.errors import UserError, unknown

_FIELDS = ("experiment", "title", "changes")


@dataclasses.dataclass(frozen=True)
class Entrant:
  """An experiment under a name.

  Attributes:
    name: in the comparison.
    title: for people.
    config: the experiment's, as it stands.
    changes: of a variant, to be made last.
  """

  name: str
  title: str
  config: ConfigDict
  changes: dict


def find(name: str, variants: ConfigDict) -> Entrant:
  """The entrant of a name in a comparison, whose variants are given.

  Raises:
    UserError: no such experiment, or a variant with unknown fields.
  """
  variant = variants.get(name, ConfigDict({"experiment": name})).to_dict()
  for field in variant:
    if field not in _FIELDS:
      raise unknown(f"field of compare.variants.{name}", field, _FIELDS)
  reference = variant.get("experiment", name)
  path, _, mode = reference.partition(":")
  file = config_schema.EXPERIMENTS / f"{path}.py"
  config = config_schema.load(f"{file}:{mode}", [])
  title = mode.replace("_", " ") if mode else file.read_text().split('"""')[1].partition(":")[0]
  if name in variants:  # there may be several of one experiment
    title = name.replace("_", " ")
  return Entrant(name, variant.get("title") or title, config, variant.get("changes") or {})


def change(config: ConfigDict, changes: dict, name: str) -> None:
  """Makes a variant's changes in a config.

  Raises:
    UserError: a key that the config does not have.
  """
  try:
    config.lock().update(changes)
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f"compare.variants.{name}.changes: {str(error).strip(chr(34))}") from None
