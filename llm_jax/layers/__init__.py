"""Residual layers: one file each; the file's name is the layer's name in a pattern."""
