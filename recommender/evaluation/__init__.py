"""Evaluation: measure how good a feed is, and estimate what another profile would have achieved."""
