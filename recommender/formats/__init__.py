"""The interchange format: which values, texts and rows are accepted, without a database."""
