"""Sweeps: one experiment trained under many settings, by as many processes as there are."""
