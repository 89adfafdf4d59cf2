"""How fast a model reads a prompt and writes after it, and what it keeps, by length of context.

Legend: B batch, T position.
"""

import copy
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.analysis.counts import state_bytes
from llm_jax.inference.generate import Rule, decode, decoding_from, initial_state, padded, prefill
from llm_jax.models.build import build, init_params

_TOKENS = 64  # decoded in one timed call, behind the context
_REPEATS = 3
_LONG = 1.0  # seconds; what takes longer is timed once


def measure(model_config, contexts=(128, 512, 2048, 8192), batch: int = 1) -> dict:
  """Measures prefill and decoding with freshly drawn parameters, which are as fast as trained ones.

  For each context a state that holds it and the tokens decoded is made anew, so that attention
  pays for the context and not for the longest one. Prefill reads the whole context by the same
  calls as `generate`; decoding goes on from the state it leaves, in one loop on the device.
  Compilation is not counted. The learned positions of a model that has them are made enough.

  Args:
    model_config: the `model` part of a decoder's config, its vocab_size set.
    contexts: tokens before the first that is decoded.
    batch: rows.

  Returns:
    "contexts": a dict for each, with "context", "prefill_tokens_per_second" and
    "decode_tokens_per_second" (medians, all rows together), "state_bytes" (of a real state, one
    row of exactly that many tokens) and "state_bytes_analytic" (what `counts` says of it); "batch"
    and "dtype".
  """
  model_config = copy.deepcopy(model_config)
  if model_config["positions"] == "learned":
    model_config["max_length"] = max(model_config["max_length"], max(contexts) + _TOKENS)
  model = build(model_config)
  params = jax.jit(lambda key: init_params(model, key))(jax.random.key(0))
  rows = []
  for context in contexts:
    prefill_rate, decode_rate = _rates(model, params, context, batch)
    rows.append(
      {
        "context": context,
        "prefill_tokens_per_second": prefill_rate,
        "decode_tokens_per_second": decode_rate,
        "state_bytes": sum(a.nbytes for a in jax.tree.leaves(model.initial_state(1, context))),
        "state_bytes_analytic": state_bytes(model_config, context),
      }
    )
  return {"contexts": rows, "batch": batch, "dtype": model.dtype}


def _rates(model, params, context: int, batch: int) -> tuple[float, float]:
  """Tokens a second of prefill and of decoding."""
  prompts = np.random.default_rng(0).integers(0, model.spec.vocab_size, (batch, context))
  tokens_BT, segments_BT = padded(prompts)
  empty = lambda: initial_state(model, batch, context + _TOKENS)
  read = lambda state, stop: prefill(
    model, params, state, tokens_BT[:, :stop], segments_BT[:, :stop]
  )
  read(empty(), min(512, tokens_BT.shape[1]))  # compiles: all chunks have one shape
  prefill_seconds, state = _time(empty, lambda state: read(state, None))

  def write(state, limit):
    decoding = decoding_from(state, prompts[:, -1])
    no_end_E = np.array([-1], np.int32)
    return decode(model, params, decoding, Rule(), no_end_E, limit, _TOKENS)

  again = lambda: jax.tree.map(jnp.copy, state)
  write(again(), 1)
  decode_seconds, _ = _time(again, lambda state: write(state, _TOKENS))
  return batch * context / prefill_seconds, batch * _TOKENS / decode_seconds


def _time(prepare: Callable, run: Callable) -> tuple[float, object]:
  """Median seconds of run(prepare()), preparing apart, and what the last run returned."""
  seconds = []
  while len(seconds) < _REPEATS and sum(seconds) < _LONG:
    argument = jax.block_until_ready(prepare())
    start = time.perf_counter()
    result = jax.block_until_ready(run(argument))
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds), result
