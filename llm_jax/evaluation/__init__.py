"""Perplexity and task scores."""
