"""What a published checkpoint says of decoding: which tokens begin and end texts or never occur."""

import json
from pathlib import Path

from llm_jax.errors import UserError

FILE = "generation_config.json"
# What makes a text right or wrong; how to search or sample is the user's to say.
NAMES = (
  "eos_token_id",
  "forced_bos_token_id",
  "forced_eos_token_id",
  "suppress_tokens",
  "bad_words_ids",
)


def read(folder: Path | str) -> dict:
  """The options of `generate` that lie in a run folder; none if the run was not imported.

  Raises:
    UserError: a file that is no JSON object, or forbids sequences of several tokens.
  """
  path = Path(folder) / FILE
  try:
    content = json.loads(path.read_text())
  except FileNotFoundError:
    return {}
  except ValueError as error:
    raise UserError(f"{path} is no JSON: {error}. Mend it, or remove it.") from error
  if not isinstance(content, dict):
    raise UserError(f"{path} holds no JSON object. Mend it, or remove it.")
  found = {name: content[name] for name in NAMES if content.get(name) is not None}
  words = found.pop("bad_words_ids", [])
  if any(len(word) != 1 for word in words):
    raise UserError(
      f"{path} forbids sequences of several tokens (bad_words_ids), and generate only single ones. "
      "Remove them there."
    )
  if words:
    found["suppress_tokens"] = [*found.get("suppress_tokens", ()), *(word[0] for word in words)]
  return found
