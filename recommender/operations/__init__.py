"""Check, prune and inspect a database, and export or erase a person's data."""
