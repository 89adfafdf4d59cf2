"""T5's objective on one text: sentinels stand for spans (Raffel et al. 2020, arXiv:1910.10683).

Run: python launch.py train --config=experiments/denoising/t5.py \
  --config.data.path=tinyshakespeare/input.txt
Takes: 2.3 minutes of one CPU core for the first 1,264 of its steps, where it was stopped; 429,792
  parameters.
Expect: 2.77 bits per byte of the spans cut out of held-out text after 500 steps, 2.64 after 1,000.
  What it puts in their places is white space and short pieces: so small a run learns what is
  frequent.

Five gaps of held-out lines, filled after 1,264 steps:
python launch.py generate --workdir=runs/t5 --prompt="..." --temperature=0.7 --top-p=0.9 --seed=1

  I will unto Venice, to buy <extra_id_0> 'gainst the wedding-day.     ","  two new lines
  Provide the feast, father, and bid <extra_id_0>; I will be sure ..   four new lines
  I know not what to say: but give <extra_id_0> your hands.            a new line
  We will have rings and things and <extra_id_0> array.                "re."  two new lines
  God send you joy, Petruchio! 'tis <extra_id_0>.                      two new lines
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.objective = "span_corruption"
  config.steps, config.seq_len, config.eval.every = 2500, 64, 500
  config.tokenizer.vocab_size = 612  # a hundred of them are sentinels
  config.optimizer.learning_rate = 2e-3
  config.model = model_config(
    kind="encoder_decoder",
    d_model=96,
    pattern=("attention", "cross_attention", "mlp"),
    repeats=1,
    encoder_repeats=2,
    norm="rmsnorm",
    layers={
      "attention": {"num_heads": 4, "positions": "rope"},
      "mlp": {"activation": "relu", "use_bias": False},
    },
  )
  return with_mode(config, mode)
