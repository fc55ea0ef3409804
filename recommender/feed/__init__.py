"""feed: TODO."""
