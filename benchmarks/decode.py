"""What a decoded token costs early and late in a document; recurrent models pay the same.

Run: python -m benchmarks.decode --family=rwkv4
"""

import argparse

from llm_jax import config
from llm_jax.analysis import speed
from llm_jax.errors import UserError
from llm_jax.host import keep_memory


def main() -> None:
  """Prints one line for each context: milliseconds a token, and the bytes that were kept."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--family", default="rwkv4", help="an experiment's name")
  parser.add_argument("--contexts", type=int, nargs="+", default=[200, 8000])
  parser.add_argument("--tokens", type=int, default=256, help="decoded behind each context")
  options = parser.parse_args()
  keep_memory()
  try:
    loaded = config.load(f"{config.EXPERIMENTS / options.family}.py", [])
  except UserError as error:
    parser.error(str(error))
  loaded.model.vocab_size = loaded.tokenizer.vocab_size
  measured = speed.measure(loaded.model, tuple(options.contexts), tokens=options.tokens)
  print(f"{options.family}: {options.tokens} tokens, width {loaded.model.d_model}")
  for row in measured["contexts"]:
    milliseconds = 1000 / row["decode_tokens_per_second"]
    print(f"after {row['context']:6,}: {milliseconds:.3f} ms a token, {row['state_bytes']:,} bytes")


if __name__ == "__main__":
  main()
