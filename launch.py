"""The only entry point: `python launch.py --help` explains each verb."""

import os
import sys

if __name__ == "__main__":
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  from llm_jax.host import keep_memory

  keep_memory()
  from llm_jax.command_line import main

  sys.exit(main(sys.argv[1:]))
