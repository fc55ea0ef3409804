"""The errors of this package: one root, so that a caller can catch all of them at once.

::

    RecommenderError (exit 1)
    ├── InvalidValue (2; also a ValueError)
    │   ├── InvalidCursor
    │   │   └── CursorAhead
    │   ├── UnknownFeed
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
    ├── ExperimentRunning
    ├── DatabaseBusy
    ├── QueryTimeout
    └── PoolTimeout

The class docstring is the default message. The number in the tree is the exit code of the command
line, ``exit_code``; errors without a number inherit it.
"""

from __future__ import annotations


class RecommenderError(Exception):
    """The recommender could not do this."""

    exit_code = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class InvalidValue(RecommenderError, ValueError):
    """A value does not have the form of its field."""

    exit_code = 2


class InvalidCursor(InvalidValue):
    """The cursor is not this user's, or has expired: request a page without a cursor."""


class CursorAhead(InvalidCursor):
    """This database cannot continue the cursor's session; a replica may lag: ask the primary."""


class UnknownFeed(InvalidValue):
    """There is no such feed."""


class UnknownProfile(InvalidValue):
    """There is no such ranking profile."""


class UnknownSignal(InvalidValue):
    """There is no such signal."""


class BadData(RecommenderError):
    """The data is not in the interchange format."""

    exit_code = 65


class EventConflict(BadData):
    """An event with this key was recorded before, with other contents."""


class EventTooOld(BadData):
    """The event is older than the pruned events, so it may have been counted before."""


class NotFound(RecommenderError, LookupError):
    """The named thing does not exist."""

    exit_code = 66


class UnknownUser(NotFound):
    """There is no such user."""


class UnknownVideo(NotFound):
    """There is no such video."""


class DatabaseUnreachable(RecommenderError):
    """The database cannot be reached."""

    exit_code = 69


class DatabaseDamaged(RecommenderError):
    """The file is damaged or not an SQLite database: restore a backup, or name another file."""

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


class ExperimentRunning(RecommenderError):
    """An experiment is running on this feed: stop it first."""


class DatabaseBusy(RecommenderError):
    """Other transactions held the rows for too long, or conflicted with this one on every try."""


class QueryTimeout(RecommenderError):
    """The database cancelled a statement that took longer than statement_timeout."""


class PoolTimeout(RecommenderError):
    """No connection became free within pool_timeout: raise pool_size or shorten transactions."""
