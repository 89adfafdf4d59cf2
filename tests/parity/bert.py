"""BERT: cases for parity with transformers' BertForPreTraining and its parts."""

from tests.parity.harness import Case

_SMALL = {
  "vocab_size": 53,
  "hidden_size": 24,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "intermediate_size": 40,
  "max_position_embeddings": 19,
}
TRAINED = "all-MiniLM-L6-v2"
CASES = [
  Case("bert", "BertForPreTraining", _SMALL, kind="encoder", greedy=0),
  Case(
    "bert-masked-lm",
    "BertForMaskedLM",
    _SMALL | {"num_hidden_layers": 3, "type_vocab_size": 1, "layer_norm_eps": 1e-3},
    kind="encoder",
    length=19,
    padding=8,
    greedy=0,
  ),
  Case(
    "bert-next-sentence",
    "BertForNextSentencePrediction",
    _SMALL | {"hidden_act": "relu"},
    kind="encoder",
    length=9,
    greedy=0,
  ),
  Case(
    "bert-model",
    "BertModel",
    _SMALL | {"hidden_size": 20, "num_attention_heads": 5, "hidden_act": "gelu_new"},
    kind="encoder",
    length=7,
    padding=3,
    greedy=0,
  ),
]
