"""The one ranking statement: candidates, filters, features, signals and score."""
