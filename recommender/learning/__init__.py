"""learning: TODO."""
