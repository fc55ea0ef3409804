"""Ingest: writing users, videos, follows, events and so on that the host application reports."""
