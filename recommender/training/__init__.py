"""Training: learn the weights of a profile from impressions or from page candidates."""
