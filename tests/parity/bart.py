"""BART: cases for parity with transformers' BartForConditionalGeneration."""

from tests.parity.harness import Case

_NAME = "BartForConditionalGeneration"


def draws(attention, feed_forward, queries, biases, tokens, positions=0.5) -> dict:
  """Standard deviations, found by trying, at which greedy decoding does not repeat one token."""
  return {
    r"decoder.*attn\.out_proj\.weight": (0.0, attention),
    r"decoder.*fc\d\.weight": (0.0, feed_forward),
    r"decoder.*[qk]_proj\.weight": (0.0, queries),
    r"bias": (0.0, biases),
    r"shared": (0.0, tokens),
    r"embed_positions": (0.0, positions),
  }


CASES = [
  Case(
    "bart",
    _NAME,
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
    },
    kind="encoder_decoder",
    draw=draws(0.1, 0.1, 0.15, 0.02, 0.15, 1.0),
  ),
  Case(
    "bart-options",
    _NAME,
    {
      "vocab_size": 47,
      "d_model": 20,
      "encoder_layers": 1,
      "decoder_layers": 3,
      "encoder_attention_heads": 5,
      "decoder_attention_heads": 2,
      "encoder_ffn_dim": 28,
      "decoder_ffn_dim": 44,
      "max_position_embeddings": 66,
      "activation_function": "relu",
      "scale_embedding": True,
      "decoder_start_token_id": 3,
    },
    kind="encoder_decoder",
    draw=draws(0.1, 0.2, 0.25, 0.02, 0.15, 1.0),
    length=17,
    padding=9,
  ),
]
