"""Three architectures at four sizes and four lengths of text each: their scaling laws.

Run: python launch.py compare --config=experiments/compare_scaling.py
Takes: not measured as it stands. A part of it, one architecture at three sizes and three short
  lengths, took 3 minutes of CPU: --config.scaling.architectures="('lstm',)"
  --config.scaling.parameters="(60000,170000,500000)" --config.scaling.learning_rates="(4e-3,8e-3)"
  --config.scaling.tokens="(20480,40960,102400)" --config.scaling.tuning_steps=5
  --config.eval.batches=8.
Expect: loss 5.9 to 6.0 at first; that part ended at 5.30 bits per byte (58,168 parameters, 20,480
  tokens) to 3.45 (496,432 parameters, 102,400 tokens), too short to tell E from zero.
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
      "parameters": (60_000, 120_000, 240_000, 480_000),  # targets; N is the widths' true count
      "tolerance": 0.2,
      "tokens": (125_000, 250_000, 500_000, 1_000_000),  # each a run, with its own schedule
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
