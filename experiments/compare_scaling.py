"""Three architectures at three sizes and three lengths of text each: their scaling laws.

Run: python launch.py compare --config=experiments/compare_scaling.py
Takes: TBD
Expect: TBD 0.0
"""

from ml_collections import ConfigDict

from llm_jax.config import base, with_mode


def get_config(mode=""):
  config = base()
  del config.model, config.init_from, config.optimizer.learning_rate  # each model has its own
  config.scaling = ConfigDict(
    {
      "architectures": ("llama", "rwkv4", "lstm"),
      "model": {"tie_embeddings": False},  # what every model takes, whatever its own config says
      "parameters": (60_000, 170_000, 500_000),  # targets; the laws are of the widths' true counts
      "tolerance": 0.2,
      "tokens": (125_000, 350_000, 1_000_000),  # each a run of its own, with its own schedule
      "learning_rates": (2e-3, 4e-3, 8e-3),  # tried at every size
      "tuning_steps": 30,
      "seeds": 1,
      "horizon": 10.0,  # crossovers are looked for up to so many times the dearest run
      "workers": 0,  # processes at once; 0: one a core, or one on accelerators
    }
  )
  config.batch_size, config.seq_len = 16, 128
  config.tokenizer.name = "byte"  # a larger vocabulary would be most of the smallest models
  config.log.every = 1
  if mode == "tiny":
    config.scaling.update(
      {"architectures": ("gpt2", "lstm"), "parameters": (4_000, 9_000, 16_000)}
      | {"tolerance": 0.4, "tokens": (128, 256, 512), "learning_rates": (4e-3,)}
    )
  config = with_mode(config, mode)
  del config.steps  # each run has its own
  return config
