"""Everything that this package raises on purpose.

::

    RecommenderError (exit 1)
    ├── InvalidValue (2; also a ValueError)
    │   ├── InvalidCursor
    │   ├── UnknownProfile
    │   └── UnknownSignal
    ├── BadData (65)
    │   ├── EventConflict
    │   └── EventTooOld
    ├── NotFound (66; also a LookupError)
    │   ├── UnknownUser
    │   └── UnknownVideo
    ├── DatabaseUnreachable (69)
    ├── DatabaseDamaged (69)
    ├── StorageFailure (74)
    ├── NotPermitted (77)
    ├── SchemaOutOfDate (78)
    ├── DatabaseBusy
    ├── QueryTimeout
    └── PoolTimeout

A class docstring is the message where none is given, and ``exit_code`` is what the command line
exits with.
"""

from __future__ import annotations


class RecommenderError(Exception):
    """The recommender could not do this."""

    exit_code = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class InvalidValue(RecommenderError, ValueError):
    """A value is not of the form that its field takes."""

    exit_code = 2


class InvalidCursor(InvalidValue):
    """The cursor is not one of this user's, or has expired: ask for a page without one."""


class UnknownProfile(InvalidValue):
    """There is no such ranking profile."""


class UnknownSignal(InvalidValue):
    """There is no such signal."""


class BadData(RecommenderError):
    """The data is not in the interchange format."""

    exit_code = 65


class EventConflict(BadData):
    """An event with this key was recorded before, with another body."""


class EventTooOld(BadData):
    """The event is of a time whose events were pruned, so that it may have been counted before."""


class NotFound(RecommenderError, LookupError):
    """What was named does not exist."""

    exit_code = 66


class UnknownUser(NotFound):
    """There is no such user."""


class UnknownVideo(NotFound):
    """There is no such video."""


class DatabaseUnreachable(RecommenderError):
    """The database cannot be reached."""

    exit_code = 69


class DatabaseDamaged(RecommenderError):
    """The file is damaged or no SQLite database: restore a backup, or name another file."""

    exit_code = 69


class StorageFailure(RecommenderError):
    """The database could not write: the disk is full or failing."""

    exit_code = 74


class NotPermitted(RecommenderError):
    """The database does not permit this: it is read-only, or the role lacks the right."""

    exit_code = 77


class SchemaOutOfDate(RecommenderError):
    """The database has no schema of this version: run `recommender db upgrade`."""

    exit_code = 78


class DatabaseBusy(RecommenderError):
    """Other transactions held the rows for too long, or clashed with this one on every try."""


class QueryTimeout(RecommenderError):
    """The database gave up a statement at statement_timeout."""


class PoolTimeout(RecommenderError):
    """No connection came free within pool_timeout: raise pool_size or shorten transactions."""
