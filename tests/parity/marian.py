"""The original Transformer: cases for parity with transformers' MarianMTModel."""

from tests.parity.bart import draws
from tests.parity.harness import Case

CASES = [
  Case(
    "marian",
    "MarianMTModel",
    {
      "vocab_size": 53,
      "d_model": 24,
      "encoder_layers": 2,
      "decoder_layers": 2,
      "encoder_attention_heads": 3,
      "decoder_attention_heads": 3,
      "encoder_ffn_dim": 36,
      "decoder_ffn_dim": 36,
      "max_position_embeddings": 70,
      "activation_function": "swish",
      "scale_embedding": True,
      "pad_token_id": 3,
      "decoder_start_token_id": 3,
    },
    kind="encoder_decoder",
    draw=draws(0.1, 0.1, 0.15, 0.02, 0.04),
  ),
  Case(
    "marian-options",
    "MarianMTModel",
    {
      "vocab_size": 47,
      "d_model": 30,
      "encoder_layers": 1,
      "decoder_layers": 2,
      "encoder_attention_heads": 5,
      "decoder_attention_heads": 2,
      "encoder_ffn_dim": 28,
      "decoder_ffn_dim": 44,
      "max_position_embeddings": 90,
      "activation_function": "relu",
      "pad_token_id": 2,
      "decoder_start_token_id": 3,
    },
    kind="encoder_decoder",
    draw=draws(0.1, 0.1, 0.15, 0.02, 0.15),
    length=17,
    padding=9,
  ),
]
