"""How fast a model reads a prompt and writes after it, and what it keeps, by length of context.

Legend: B batch, T position.
"""

import copy
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.analysis.counts import state_bytes
from llm_jax.inference.loop import decode, decoding_from
from llm_jax.inference.reading import initial_state, padded, prefill, unstacked
from llm_jax.inference.rules import Rules
from llm_jax.models.build import abstract_params, build

_REPEATS = 3
_LONG = 1.0  # seconds; what takes longer is timed once


def measure(
  model_config,
  contexts=(128, 512, 2048, 8192),
  dtype: str = "float32",
  tokens: int = 64,
) -> dict:
  """Measures prefill and decoding on random parameters, which cost what trained ones do.

  For each context a state that holds it and the tokens decoded is made anew, so that attention
  pays for the context and not for the longest one. Prefill reads the whole context by the same
  calls as `generate`; decoding goes on from the state it leaves, in one loop on the device.
  Compilation is not counted. Learned positions are made enough.

  Args:
    model_config: the `model` part of a decoder's config, its vocab_size set.
    contexts: tokens before the first that is decoded.
    dtype: compute type, and that of caches.
    tokens: decoded behind each context, in one call.

  Returns:
    "contexts": a dict for each, with "context", "prefill_tokens_per_second" and
    "decode_tokens_per_second" (medians, of one row), "state_bytes" (of a real state of exactly that
    many tokens) and "state_bytes_analytic" (what `counts` says of it).
  """
  model_config = copy.deepcopy(model_config)
  if model_config["positions"] == "learned":
    model_config["max_length"] = max(model_config["max_length"], max(contexts) + tokens)
  model = build(model_config, dtype)
  draw = np.random.default_rng(0).standard_normal
  params = jax.tree.map(
    lambda leaf: jnp.asarray(0.02 * draw(leaf.shape, np.float32)), abstract_params(model)
  )
  trials = [_Trial(model, params, context, tokens) for context in contexts]
  with ThreadPoolExecutor(2) as pool:  # a program compiles on one core, mostly
    list(pool.map(_Trial.compile, trials))
  rows = []
  for trial in trials:
    prefill_seconds, decode_seconds = trial.seconds()
    state = model.initial_state(1, trial.context, dtype=jnp.dtype(dtype))
    rows.append(
      {
        "context": trial.context,
        "prefill_tokens_per_second": trial.context / prefill_seconds,
        "decode_tokens_per_second": tokens / decode_seconds,
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "state_bytes_analytic": state_bytes(model_config, trial.context, dtype),
      }
    )
  return {"contexts": rows}


class _Trial:
  """Prefill and decoding of random tokens at one context."""

  def __init__(self, model, params, context: int, tokens: int):
    self.context, self.tokens = context, tokens
    self._model, self._params, self._blocks = model, params, unstacked(model, params)
    prompts = np.random.default_rng(0).integers(0, model.spec.vocab_size, (1, context))
    self._tokens_BT, self._segments_BT = padded(prompts)

  def compile(self) -> None:
    """Runs every program once; all chunks of a prefill have the shape of the first."""
    self._write(self._read(self._empty(), 512), 1)

  def seconds(self) -> tuple[float, float]:
    """Of a whole prefill, and of decoding the tokens."""
    prefill_seconds, state = _time(self._empty, self._read)
    decode_seconds, _ = _time(lambda: jax.tree.map(jnp.copy, state), self._write)
    return prefill_seconds, decode_seconds

  def _empty(self):
    return initial_state(self._model, len(self._tokens_BT), self.context + self.tokens)

  def _read(self, state, stop=None):
    tokens_BT, segments_BT = self._tokens_BT[:, :stop], self._segments_BT[:, :stop]
    return prefill(self._model, self._params, state, tokens_BT, segments_BT)

  def _write(self, state, limit=None):
    decoding = decoding_from(state, self._tokens_BT[:, 0])
    limit = limit or self.tokens
    return decode(self._model, self._blocks, decoding, Rules(), limit, self.tokens)


def _time(prepare: Callable, run: Callable) -> tuple[float, object]:
  """Median seconds of run(prepare()), preparing apart, and what the last run returned."""
  seconds = []
  while len(seconds) < _REPEATS and sum(seconds) < _LONG:
    argument = jax.block_until_ready(prepare())
    start = time.perf_counter()
    result = jax.block_until_ready(run(argument))
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds), result
