"""The sessions that public functions take."""

from __future__ import annotations

from typing import Any, TypeAlias

from sqlalchemy import orm

Session: TypeAlias = orm.Session | orm.scoped_session[Any]
"""A session of the caller: SQLAlchemy's, or a registry of sessions such as Flask-SQLAlchemy's."""
