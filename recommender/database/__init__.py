"""database: TODO."""
