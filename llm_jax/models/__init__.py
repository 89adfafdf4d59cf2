"""Decoder, encoder and encoder-decoder, made of patterns of layers."""
