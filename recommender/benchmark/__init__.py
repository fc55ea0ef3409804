"""benchmark: TODO."""
