"""Nearest neighbours of a run's word vectors beside those of gensim, of the same text and settings.

  python -m benchmarks.word_vectors --workdir=runs/word2vec

Prints which part of the ten nearest neighbours of frequent words is the same: the run's and
gensim's, and, as the most one can expect, those of two runs of gensim that differ in their seed.
"""

import argparse
import json

import numpy as np

from llm_jax.evaluation import neighbours
from llm_jax.models.word_vectors import vectors
from llm_jax.training import inputs, runs

WORDS, COUNT = 300, 10


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", required=True, help="a run of word2vec")
  run = runs.read(parser.parse_args().workdir)
  pieces = run.tokenizer.vocabulary.pieces
  documents = run.tokenizer.encode_documents(inputs.load_text(run.config).train_documents)
  texts = [[str(index) for index in ids[1:-1].tolist()] for ids in documents]
  tokens = sum(map(len, texts))
  passes = run.config.steps * run.config.batch_size * run.config.seq_len / tokens
  tables = [
    np.asarray(vectors(run.params)),
    *(_gensim(run, texts, passes, seed) for seed in (1, 2)),
  ]
  counts_V = np.bincount(np.concatenate(documents), minlength=len(pieces))
  common = [i for i in np.argsort(-counts_V).tolist() if len(pieces[i].strip()) > 3][:WORDS]
  ours, theirs, again = (_neighbours(table_VD, pieces, common) for table_VD in tables)
  found = {
    "words": len(common),
    "tokens": tokens,
    "passes": passes,
    "overlap": _overlap(ours, theirs),
    "overlap_of_two_seeds_of_gensim": _overlap(theirs, again),
  }
  print(json.dumps(found, indent=2))


def _gensim(run, texts, passes: float, seed: int) -> np.ndarray:
  """Its vectors after as many passes, at its own learning rate."""
  from gensim.models import Word2Vec

  options = run.config.objective_options
  made = Word2Vec(
    texts,
    sg=1,
    vector_size=run.config.model.d_model,
    window=options.window,
    negative=options.negatives,
    sample=options.sample,
    min_count=1,
    epochs=max(round(passes), 1),
    seed=seed,
    workers=1,
  )
  table_VD = np.zeros((run.tokenizer.vocab_size, run.config.model.d_model), np.float32)
  for word, place in made.wv.key_to_index.items():
    table_VD[int(word)] = made.wv.vectors[place]
  return table_VD


def _neighbours(table_VD, pieces, words) -> list[set[str]]:
  found = neighbours.nearest(neighbours.normalised(table_VD), pieces, words, COUNT)
  return [{pieces[index].strip().lower() for index, _ in near} for near in found]


def _overlap(one, two) -> float:
  return float(np.mean([len(a & b) / COUNT for a, b in zip(one, two, strict=True)]))


if __name__ == "__main__":
  main()
