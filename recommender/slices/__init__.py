"""Slices: small databases with what the pages of some users read, for bug reports."""
