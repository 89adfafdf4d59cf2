"""Corpora, tokenizers and the input pipeline."""
