"""Ingest: writing users, videos, follows, mutes and events that the host application reports."""
