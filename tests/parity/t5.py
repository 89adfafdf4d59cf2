"""T5 v1.0 and v1.1: cases for parity with transformers' T5ForConditionalGeneration."""

from tests.parity.harness import Case

_NAME = "T5ForConditionalGeneration"


def _draws(attention, feed_forward, queries, table) -> dict:
  """Standard deviations, found by trying, at which greedy decoding does not repeat one token."""
  return {
    r"decoder.*Attention\.o\.weight": (0.0, attention),
    r"decoder.*Dense.*w[io]": (0.0, feed_forward),
    r"decoder.*Attention\.[qk]\.weight": (0.0, queries),
    r"relative_attention_bias": (0.0, table),
    r"shared": (0.0, 0.2),
  }


CASES = [
  Case(
    "t5-v1.0",
    _NAME,
    {
      "vocab_size": 53,
      "d_model": 24,
      "d_kv": 5,
      "d_ff": 40,
      "num_layers": 3,
      "num_decoder_layers": 2,
      "num_heads": 3,
      "relative_attention_num_buckets": 8,
      "relative_attention_max_distance": 12,
      "decoder_start_token_id": 0,
    },
    kind="encoder_decoder",
    draw=_draws(0.4, 0.2, 0.25, 3.0),
    source_length=19,
  ),
  Case(
    "t5-v1.1",
    _NAME,
    {
      "vocab_size": 47,
      "d_model": 20,
      "d_kv": 8,
      "d_ff": 26,
      "num_layers": 1,
      "num_heads": 5,
      "feed_forward_proj": "gated-gelu",
      "tie_word_embeddings": False,
      "layer_norm_epsilon": 1e-3,
      "decoder_start_token_id": 0,
    },
    kind="encoder_decoder",
    draw=_draws(0.6, 0.3, 0.4, 4.0),
    length=9,
    padding=5,
  ),
]
