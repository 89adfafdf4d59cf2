"""Decoding with caches and recurrent states."""
