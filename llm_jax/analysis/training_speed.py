"""What a training step of a config costs on this machine: tokens a second, and peak memory.

Legend: B batch, T position.
"""

import statistics
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from llm_jax import objective
from llm_jax.data.tokenizers import Vocabulary
from llm_jax.models import build
from llm_jax.training import optimizers, schedules
from llm_jax.training.step import initial_state, make_train_step

_STEPS = 7  # timed, after two that warm up


def measure_training(config: ConfigDict) -> dict[str, float]:
  """Times the train step on one device, on random tokens, with freshly drawn parameters.

  Args:
    config: a whole config whose model has its vocab_size.

  Returns:
    train_tokens_per_second: of the median step.
    memory_bytes: the compiled step's arguments, results and temporaries together.
  """
  model = build.build(config.model, config.dtype)
  chosen = objective.make(config)
  params = build.init_params(model, jax.random.key(0))
  optimizer = optimizers.make(
    config.optimizer, params, build.param_axes(model), build.undecayed(model)
  )
  schedule = schedules.make(config.schedule, config.optimizer.learning_rate, config.steps)
  begin = lambda params: initial_state(params, optimizer, jax.random.PRNGKey(0), schedule)
  state = jax.jit(begin)(params)  # jitted: a donated state may not hold one buffer twice
  batch = _random_batch(config, chosen)
  step = jax.jit(make_train_step(model, chosen, optimizer), donate_argnums=0)
  compiled = step.lower(state, batch).compile()
  seconds = []
  for _ in range(_STEPS + 2):
    start = time.perf_counter()
    state, metrics = compiled(state, batch)
    jax.block_until_ready((state, metrics))
    seconds.append(time.perf_counter() - start)
  tokens = config.batch_size * config.seq_len
  return {
    "train_tokens_per_second": tokens / statistics.median(seconds[2:]),
    "memory_bytes": _peak_bytes(compiled),
  }


def _random_batch(config, chosen):
  """A batch of whole rows, one document each, as the objective wants it."""
  if hasattr(chosen, "parts"):
    keys = np.arange(3 * config.batch_size, dtype=np.uint32).reshape(-1, 3)
    examples = [chosen.transform({"key": key}) for key in keys]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}
  shape = (config.batch_size, config.seq_len + 1)
  rows = {
    "tokens": np.random.default_rng(0).integers(0, config.model.vocab_size, shape, np.int32),
    "segments": np.ones(shape, np.int32),
    "document_ids": np.zeros(shape, np.int32),
  }
  vocabulary = Vocabulary.numbered(config.model.vocab_size, chosen.SPECIAL_TOKENS)
  examples = [
    chosen.transform({k: v[b] for k, v in rows.items()}, vocabulary) for b in range(shape[0])
  ]
  del examples[0]["document_ids"]
  return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _peak_bytes(compiled) -> int:
  """Arguments, results and temporaries of a compiled program; what it reuses counts once."""
  memory = compiled.memory_analysis()
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
  )
