"""The column types, names and checks that all tables share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Identity,
    Integer,
    MetaData,
    Text,
)
from sqlalchemy.orm import DeclarativeBase, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from recommender.errors import InvalidValue
from recommender.formats.scalars import UNDATED

PREFIX = "rec_"

SPACE_PREFIX = f"{PREFIX}embeddings_"
"""The beginning of the names of the tables of vectors."""

VERSION_TABLE = f"{PREFIX}alembic_version"

SCHEMA_REVISION = "0015"
"""The migration that this package needs: the head of `migrations/versions`."""

LARGEST_WEIGHT = 100.0

LEAST_WEIGHT = 1e-15
"""The smallest absolute weight; smaller ones are 0, as no signal makes them count."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_MICROSECOND = timedelta(microseconds=1)


def microseconds(value: datetime | None) -> int | None:
    """Return a time as SQLite stores it: microseconds since 1970."""
    return None if value is None else (value - _EPOCH) // _MICROSECOND


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC: `timestamptz` on PostgreSQL, integer microseconds since 1970 on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column type of a database."""
        is_sqlite = dialect.name == "sqlite"
        return dialect.type_descriptor(BigInteger() if is_sqlite else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Return the value for the driver."""
        if value is not None and value.tzinfo is None:
            raise InvalidValue(f"the time {value} has no offset from UTC")
        return microseconds(value) if dialect.name == "sqlite" else value

    def result_processor(
        self,
        dialect: Dialect,
        coltype: object,  # noqa: ARG002 - SQLAlchemy gives both
    ) -> Callable[[Any], datetime | None]:
        """Return the function that converts a driver's value to a time in UTC."""
        return _from_microseconds if dialect.name == "sqlite" else _in_utc


class PublicationTime(UtcDateTime):
    """A time in UTC, or None; None is stored as `UNDATED`, below every other time.

    So videos without a date are ordered last, without NULL in a comparison or an index.
    """

    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Return the value for the driver."""
        return super().process_bind_param(value or UNDATED, dialect)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        """Return the function that converts a driver's value to a time in UTC, or None."""
        convert = super().result_processor(dialect, coltype)

        def dated(value: Any) -> datetime | None:
            moment = convert(value)
            return None if moment == UNDATED else moment

        return dated


def stored(kind: TypeEngine[Any], values: Sequence[Any]) -> Sequence[Any]:
    """Return the values of a column as it stores them, `UNDATED` for an unknown publication."""
    return [at or UNDATED for at in values] if isinstance(kind, PublicationTime) else values


def _from_microseconds(value: int | None) -> datetime | None:
    return None if value is None else _EPOCH + value * _MICROSECOND


def _in_utc(value: datetime | None) -> datetime | None:
    return None if value is None else value.astimezone(UTC)


BigId = BigInteger().with_variant(Integer, "sqlite")

KeyText = Text().with_variant(Text(collation="C"), "postgresql")

Id = Annotated[int, mapped_column(BigId, Identity(), primary_key=True)]

Key = Annotated[str, mapped_column(KeyText)]

Time = Annotated[datetime, mapped_column(UtcDateTime)]

Count = Annotated[int, mapped_column(BigInteger, server_default="0")]

Fraction = Annotated[float, mapped_column(Double, server_default="0")]

UserKey = Annotated[
    int, mapped_column(BigInteger, ForeignKey(f"{PREFIX}users.id"), primary_key=True)
]

REFERENCE: dict[str, Any] = {"info": {"is_reference": True}}
"""A table of which every node of a distributed database has a copy.

The rows of all other tables are one user's: `user_id` decides which node has them.
"""

CATALOGUE: dict[str, Any] = {"sqlite_autoincrement": True, **REFERENCE}

CLUSTERED: dict[str, Any] = {"sqlite_with_rowid": False}

ON_SQLITE: dict[Any, Any] = {"only_on": "sqlite"}
"""Marks a constraint that PostgreSQL does not have."""

CLUSTERED_REFERENCE: dict[str, Any] = {**CLUSTERED, **REFERENCE}


class Base(DeclarativeBase):
    """The declarative base, with the naming convention."""

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pk",
            "fk": "%(table_name)s_%(column_0_N_name)s_fk",
            "uq": "%(table_name)s_%(column_0_N_name)s_uq",
            "ix": "%(table_name)s_%(column_0_N_name)s_ix",
            "ck": "%(table_name)s_%(constraint_name)s_ck",
        }
    )


def key_length(column: str, longest: int = 255) -> CheckConstraint:
    """Return a check that a text is 1 to `longest` code points long."""
    return CheckConstraint(f"length({column}) BETWEEN 1 AND {longest}", name=f"{column}_length")


def one_of(column: str, words: tuple[str, ...]) -> CheckConstraint:
    """Return a check that a text is one of the words."""
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def not_negative(*columns: str) -> CheckConstraint:
    """Return a check that no number is below 0."""
    return CheckConstraint(" AND ".join(f"{c} >= 0" for c in columns), name="not_negative")


def is_fraction(column: str) -> CheckConstraint:
    """Return a check that a number is from 0 to 1."""
    return CheckConstraint(f"{column} BETWEEN 0 AND 1", name=column)


def between(column: str, low: float, high: float) -> CheckConstraint:
    """Return a check that a number is within bounds, and so finite."""
    return CheckConstraint(f"{column} BETWEEN {low:g} AND {high:g}", name=column)
