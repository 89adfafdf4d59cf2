r"""What an encoder has learned: its body stays as it is, and a linear layer reads off lost marks.

The words of a text and its marks, of which each is written as a comma: was it one, a question mark,
or one of .:;! that end more? The word before says little and the comma nothing, so what counts is
whether a frozen body has put into each token what stands around it.

Run: python launch.py train --config=experiments/masked/probe.py \
  --config.data.path=plays.conll --config.data.validation_path=held_out.conll \
  --config.init_from=runs/bert_shakespeare --config.model_from_source=True
Data: of the texts of bert_shakespeare.py, speeches without the names of their speakers, by
  for part in plays held_out; do
    awk -v RS= '{ sub(/[^\n]*\n/, ""); gsub(/[,.:;?!]/, " & "); for (i = 1; i <= NF; i++) {
      t = $i == "," ? "B-comma" : $i == "?" ? "B-question" : $i ~ /[.:;!]/ ? "B-stop" : "O"
      print (t == "O" ? $i : ",") "\t" t; if (i % 24 == 0) print "" } print "" }' \
    $part.txt > $part.conll; done
Takes: 40 seconds of one CPU core.
Expect: F1 of 66.5 and 66.7 % with seeds 0 and 1, by
    python launch.py evaluate --workdir=runs/probe --data=held_out.conll
  44.8 and 48.3 % of a body that has learned nothing, which is the same command with
  --config.tokenizer.name=runs/bert_shakespeare/tokenizer.json for the last line; 48.8 % of calling
  each a comma.
"""

from llm_jax.config import base, with_mode
from llm_jax.models.spec import model_config
from llm_jax.objective import options


def get_config(mode=""):
  config = base()
  config.objective = "token_classification"
  config.objective_options = options("token_classification", too_long="cut")
  config.freeze = ("embed/.*", "stack/.*")
  config.steps, config.batch_size, config.seq_len = 800, 32, 64
  config.tokenizer.name, config.tokenizer.vocab_size = "wordpiece", 512
  config.optimizer.learning_rate, config.optimizer.weight_decay = 3e-2, 0.0
  config.model = model_config(
    kind="encoder",
    d_model=96,
    repeats=2,
    token_types=2,
    heads=("token_classification",),
    layers={"attention": {"num_heads": 4, "positions": "rope"}, "mlp": {"activation": "gelu"}},
  )
  return with_mode(config, mode)
