"""RoBERTa: cases for parity with transformers' RobertaForMaskedLM and RobertaModel."""

from tests.parity.harness import Case

_SMALL = {
  "vocab_size": 53,
  "hidden_size": 24,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "intermediate_size": 40,
  "max_position_embeddings": 21,
}
CASES = [
  Case(
    "roberta",
    "RobertaForMaskedLM",
    _SMALL | {"hidden_act": "silu", "layer_norm_eps": 1e-3, "type_vocab_size": 1},
    kind="encoder",
    length=19,
    padding=8,
    greedy=0,
  ),
  Case(
    "roberta-model",
    "RobertaModel",
    _SMALL | {"hidden_size": 20, "num_attention_heads": 5, "pad_token_id": 3, "type_vocab_size": 3},
    kind="encoder",
    length=7,
    padding=3,
    greedy=0,
  ),
]
