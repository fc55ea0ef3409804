"""Experiments: which of several profiles serves a feed's users better."""
