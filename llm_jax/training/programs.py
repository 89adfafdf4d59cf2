"""What runs of one process share: compiled steps, where configs differ in numbers alone.

A seed, a learning rate and the length of a run are read by the compiled step, not written into it.
Whoever trains many such runs one after the other (a comparison, a sweep) hands one `Programs` to
all of them, and only the first is traced and compiled.
"""

import json

import flax.linen as nn
from ml_collections import ConfigDict

from llm_jax.analysis import counts
from llm_jax.ops import forms
from llm_jax.training import strategies

# Beside the optimizer's learning rate: what the compiled step reads, or never sees.
_NUMBERS = ("seed", "steps", "init_from", "data", "checkpoint", "eval", "early_stopping", "log")
_KEPT = 4  # of each; models grow, and whoever comes back to an old one compiles it again


class Programs:
  """Strategies and costs of the runs so far."""

  def __init__(self):
    self._strategies, self._costs = {}, {}

  def strategy(self, config: ConfigDict, model: nn.Module, objective, constants: dict):
    """`strategies.make`, or an earlier one of it with this run's schedule."""
    if constants:  # a teacher's arrays
      return strategies.make(config, model, objective, constants=constants)
    compiled = {key: value for key, value in config.to_dict().items() if key not in _NUMBERS}
    compiled["optimizer"] = compiled["optimizer"] | {"learning_rate": None}
    compiled["schedule"] = config.schedule.name
    key = model, repr(objective), json.dumps(compiled, sort_keys=True)
    made = self._kept(self._strategies, key, lambda: strategies.make(config, model, objective))
    return made.with_schedule(config)

  def cost(self, model_config: ConfigDict, seq_len: int, targets: int) -> tuple:
    """Parameters, training FLOPs a token, and the set of the forms that ops take."""
    key = model_config.to_json(sort_keys=True), seq_len, targets
    return self._kept(self._costs, key, lambda: _cost(model_config, seq_len, targets))

  @staticmethod
  def _kept(store, key, make):
    if key not in store:
      store[key] = make()
      for oldest in list(store)[:-_KEPT]:
        del store[oldest]
    return store[key]


def _cost(model_config, seq_len, targets):
  with forms.recording() as taken:
    flops = counts.training_flops_per_token(model_config, seq_len, targets)
  return counts.parameters(model_config), flops, taken
