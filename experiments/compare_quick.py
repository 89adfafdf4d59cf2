"""Seven architectures at 1.05 million parameters on the embedded corpus: the default comparison.

Run: python launch.py
Takes: 11 to 14 minutes on two CPU cores.
Expect: RWKV-4 2.12, Mamba 2.12, LSTM 2.14, Hybrid 2.24, S5 2.43, Llama 2.46 and GPT-2 2.59 bits per
  byte, where an order-2 byte model has 2.97.
"""

from llm_jax.config import comparison, with_mode


def get_config(mode=""):
  config = comparison(
    architectures=("hybrid", "mamba", "gpt2", "llama", "rwkv4", "s5", "lstm"),
    model={"tie_embeddings": False},
    seeds=2,
  )
  config.steps, config.batch_size, config.seq_len = 160, 16, 128
  config.log.every, config.checkpoint.every = 1, 80
  if mode == "tiny":
    config.compare.update(
      {"architectures": ("gpt2", "lstm"), "parameters": 30_000, "tolerance": 0.2}
      | {"learning_rates": (4e-3, 8e-3), "tuning_steps": 2, "contexts": (16, 32)}
    )
  return with_mode(config, mode)
