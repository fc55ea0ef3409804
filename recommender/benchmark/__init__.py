"""Synthetic worlds of any size, and how fast pages are on them."""
