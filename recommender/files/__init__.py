"""Import and export users, videos, follows and events as CSV or JSON Lines."""
