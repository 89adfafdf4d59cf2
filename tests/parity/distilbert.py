"""DistilBERT: cases for parity with transformers' DistilBertForMaskedLM and DistilBertModel."""

from tests.parity.harness import Case

_SMALL = {
  "vocab_size": 53,
  "dim": 24,
  "n_layers": 2,
  "n_heads": 3,
  "hidden_dim": 40,
  "max_position_embeddings": 19,
}
CASES = [
  Case("distilbert", "DistilBertForMaskedLM", _SMALL, kind="encoder", greedy=0),
  Case(
    "distilbert-model",
    "DistilBertModel",
    _SMALL | {"dim": 20, "n_heads": 5, "activation": "relu", "sinusoidal_pos_embds": True},
    kind="encoder",
    length=19,
    padding=8,
    greedy=0,
  ),
]
