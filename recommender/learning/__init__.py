"""Affinities, statistics and neighbours: what the feed learns from behaviour."""
