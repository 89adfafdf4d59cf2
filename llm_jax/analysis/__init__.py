"""Counts, comparisons and reports."""
