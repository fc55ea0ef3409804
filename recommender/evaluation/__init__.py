"""evaluation: TODO."""
