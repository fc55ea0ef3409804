"""formats: TODO."""
