"""Spaces: one table for the vectors of one model, made and dropped by its owner.

No migration makes them, so that a database without the extension has the same schema. A space is
catalogue data, a reference table on Citus.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import BigInteger, Connection, Engine, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from recommender.database.schema import check_schema
from recommender.database.transactions import NO_SPACE, run_on, translate_errors
from recommender.database.vectors import Vector, halfvec
from recommender.errors import InvalidValue, NotFound, RecommenderError
from recommender.formats import scalars
from recommender.formats.vectors import MOST_DIMENSIONS, space_name
from recommender.models.tables import VIDEOS
from recommender.models.types import SPACE_PREFIX
from recommender.settings import Settings

LEAST_VERSION = (0, 8)
"""The oldest extension: before, a filter after its index left lists short."""

METRICS = ("cosine",)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Space:
    """A space of vectors.

    Attributes:
        name: its name.
        dim: the number of dimensions of its vectors.
        metric: how they are compared: ``cosine``.
        vectors: the number of its vectors.
        indexed: whether the nearest ones are found by an index; None on SQLite, which has none.
    """

    name: str
    dim: int
    metric: str
    vectors: int
    indexed: bool | None

    def as_dict(self) -> dict[str, object]:
        """Return the space as `embeddings list` prints it."""
        return asdict(self)


@lru_cache(maxsize=100)
def space_table(name: str, dimensions: int | None = None) -> Table:
    """Return the table of a space, in a metadata of its own.

    Args:
        name: as `space_name` returns it.
        dimensions: the number of dimensions; only making the table needs it.
    """
    table = f"{SPACE_PREFIX}{name}"
    key = BigInteger().with_variant(sa.Integer(), "sqlite")  # there it is the row's own number
    fits = sa.CheckConstraint(f"length(vector) = {4 * (dimensions or 0)}", name=f"{table}_length")
    return Table(
        table,
        sa.MetaData(),
        sa.Column("video_id", key, sa.ForeignKey(VIDEOS.c.id, name=f"{table}_video_id_fk"),
                  primary_key=True, autoincrement=False),
        sa.Column("vector", Vector(dimensions), nullable=False),
        fits.ddl_if(dialect="sqlite"),
    )  # fmt: skip


def create_space(
    bind: Engine | Connection, name: str, *, dim: int, metric: str = "cosine"
) -> Space:
    """Create the table of a space, unless it is there. It needs the role that owns the tables.

    On PostgreSQL it also creates the extension `vector`, if the role may. Fill the space first,
    and then build its index by `index_space`, which is much faster than the other way round.

    Args:
        bind: an engine, or a connection whose transaction the caller ends.
        name: one word of letters, digits and ``_``, at most 36 bytes; case does not matter.
        dim: the number of dimensions, 1 to 4,000.
        metric: how vectors are compared: ``cosine``.

    Raises:
        InvalidValue: a value is not valid, or there is a space of that name with another number
            of dimensions.
        NotPermitted: the role may not create tables.
        RecommenderError: the server has no extension `vector` of version 0.8 or newer, or a
            package is missing.
    """
    known = scalars.parse_named("space", space_name, name)
    if not isinstance(dim, int) or isinstance(dim, bool) or not 1 <= dim <= MOST_DIMENSIONS:
        raise InvalidValue(
            f"dim: {scalars.shown(dim)} is not a whole number from 1 to {MOST_DIMENSIONS:,}"
        )
    scalars.parse_named("metric", scalars.one_of(METRICS), metric)

    return _changed(bind, partial(_created, name=known, dim=dim))


def _created(connection: Connection, name: str, dim: int) -> Space:
    """Return a space, created if it is missing; `InvalidValue` if it has another `dim`."""
    if not _is_there(connection, name):
        if connection.dialect.name == "postgresql":
            halfvec(dim)
            _add_extension(connection)
        space_table(name, dim).create(connection)
    table = found_space(connection, name)
    if (existing := dimensions_of(table)) != dim:
        raise InvalidValue(
            f"dim: the space {name} has {existing} dimensions, not {dim}: drop it, or create"
            " another"
        )
    return _space(connection, table)


def list_spaces(bind: Engine | Connection) -> tuple[Space, ...]:
    """Return all spaces, by name.

    Args:
        bind: an engine, or a connection.

    Raises:
        RecommenderError: the database reported an error.
    """
    with _connected(bind) as connection:
        return tuple(_space(connection, table) for table in space_tables(connection))


def drop_space(bind: Engine | Connection, name: str) -> None:
    """Drop a space with all its vectors. It needs the role that owns the tables.

    Args:
        bind: an engine, or a connection whose transaction the caller ends.
        name: its name.

    Raises:
        InvalidValue: the name is malformed.
        NotFound: there is no such space.
    """
    _changed(bind, lambda connection: found_space(connection, name).drop(connection))


def index_space(engine: Engine, name: str) -> None:
    """Build the index that finds nearest vectors on PostgreSQL, unless it is there.

    It is an HNSW graph (Malkov and Yashunin, 2018), built CONCURRENTLY, so that others write
    meanwhile. What an interrupted attempt left is built again.

    Args:
        engine: an engine.
        name: the name of the space.

    Raises:
        InvalidValue: the name is malformed, or the database is SQLite, which reads all vectors.
        NotFound: there is no such space.
    """
    with translate_errors(), engine.connect() as connection:
        check_schema(connection)
        table = found_space(connection, name)
        if connection.dialect.name == "sqlite":
            raise InvalidValue("SQLite has no index of vectors: it reads them all")
        is_valid = _valid_index(connection, table)
        connection.rollback()
    if is_valid:
        return
    names = {"index": index_name(table), "table": table.name}
    committing = engine.execution_options(isolation_level="AUTOCOMMIT")
    with translate_errors(), committing.connect() as connection:
        try:
            connection.execute(sa.text("SET statement_timeout = 0"))
            for statement in _BUILD:
                build = sa.DDL(statement, context=names)  # type: ignore[no-untyped-call]
                connection.execute(build)
        finally:
            connection.invalidate()  # no one else of the pool gets a connection without a limit


_BUILD = (
    "DROP INDEX CONCURRENTLY IF EXISTS %(index)s",
    "CREATE INDEX CONCURRENTLY %(index)s ON %(table)s USING hnsw (vector halfvec_cosine_ops)",
)


def index_name(table: Table) -> str:
    """Return the name of a space's index on PostgreSQL."""
    return f"{table.name}_vector_ix"


def found_space(connection: Connection, name: object) -> Table:
    """Return the table of a space that exists, with its dimensions.

    Raises:
        InvalidValue: the name is malformed.
        NotFound: there is no such space.
    """
    known = scalars.parse_named("space", space_name, name)
    if not _is_there(connection, known):
        raise NotFound(NO_SPACE.format(known))
    return space_table(known, _dimensions(connection, f"{SPACE_PREFIX}{known}"))


def dimensions_of(table: Table) -> int:
    """Return the number of dimensions of a space that `found_space` returned."""
    kind: Any = table.c.vector.type
    return int(kind.dimensions)


def space_tables(connection: Connection) -> list[Table]:
    """Return the tables of all spaces, by name."""
    names = sorted(sa.inspect(connection).get_table_names())
    return [
        space_table(name.removeprefix(SPACE_PREFIX), _dimensions(connection, name))
        for name in names
        if name.startswith(SPACE_PREFIX)
    ]


def embeddings(connection: Connection) -> Iterator[sa.Select[str, str, Any]]:
    """Yield a SELECT for each space: its name, the keys of videos and their vectors, by row id."""
    for table in space_tables(connection):
        name = sa.literal(_name_of(table), sa.Text())
        rows = sa.select(name, VIDEOS.c.key, table.c.vector)
        yield rows.join(table, table.c.video_id == VIDEOS.c.id).order_by(VIDEOS.c.id)


def _changed(bind: Engine | Connection, change: Callable[[Connection], T]) -> T:
    """Change the tables of spaces; again after a deadlock with a page that reads the space.

    Raises:
        SchemaOutOfDate: the database is not at the migration of this package.
    """

    def unit(session: Session) -> T:
        connection = session.connection()
        check_schema(connection)
        return change(connection)

    return run_on(bind, unit, settings=Settings.from_environment())


@contextmanager
def _connected(bind: Engine | Connection) -> Iterator[Connection]:
    """Provide the caller's connection, or one in a transaction of its own.

    Raises:
        SchemaOutOfDate: the database is not at the migration of this package.
    """
    if isinstance(bind, Connection):
        check_schema(bind)
        yield bind
        return
    with translate_errors(), bind.begin() as connection:
        check_schema(connection)
        yield connection


def _space(connection: Connection, table: Table) -> Space:
    count = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
    on_sqlite = connection.dialect.name == "sqlite"
    indexed = None if on_sqlite else _valid_index(connection, table)
    return Space(_name_of(table), dimensions_of(table), "cosine", count, indexed)


def _name_of(table: Table) -> str:
    return table.name.removeprefix(SPACE_PREFIX)


def _is_there(connection: Connection, name: str) -> bool:
    return sa.inspect(connection).has_table(f"{SPACE_PREFIX}{name}")


def _dimensions(connection: Connection, table: str) -> int:
    """Return the number of dimensions of a space's vectors, from its table.

    Raises:
        RecommenderError: the table is no space, though it has the name of one.
    """
    read = _dimensions_on_sqlite if connection.dialect.name == "sqlite" else _dimensions_in_catalog
    if (dimensions := read(connection, table)) is None:
        raise RecommenderError(
            f"the table {table} is no space, though its name begins with {SPACE_PREFIX}: rename or"
            " drop it"
        )
    return dimensions


def _dimensions_on_sqlite(connection: Connection, table: str) -> int | None:
    checks = sa.inspect(connection).get_check_constraints(table)
    lengths = (_LENGTH.fullmatch(check["sqltext"]) for check in checks)
    return next((int(length[1]) // 4 for length in lengths if length), None)


_LENGTH = re.compile(r"length\(vector\) = (\d+)")


def _dimensions_in_catalog(connection: Connection, table: str) -> int | None:
    names = ("attrelid", "attname", "atttypid", "atttypmod")
    attribute = sa.table("pg_attribute", *map(sa.column, names))
    oid = sa.cast(sa.literal(table), postgresql.REGCLASS)
    is_vector = (
        attribute.c.attrelid == oid,
        attribute.c.attname == "vector",
        attribute.c.atttypid == sa.func.to_regtype("halfvec"),
    )
    dimensions = connection.scalar(sa.select(attribute.c.atttypmod).where(*is_vector))
    return dimensions if dimensions and dimensions > 0 else None


def _valid_index(connection: Connection, table: Table) -> bool:
    index = sa.table("pg_index", sa.column("indexrelid"), sa.column("indisvalid"))
    oid = sa.func.to_regclass(index_name(table))
    statement = sa.select(index.c.indisvalid).where(index.c.indexrelid == oid)
    return bool(connection.scalar(statement))


def _add_extension(connection: Connection) -> None:
    """Create the extension `vector`, unless it is there; `RecommenderError` if it is too old."""
    available = sa.table(
        "pg_available_extensions", *map(sa.column, ("name", "default_version", "installed_version"))
    )
    of_vector = sa.select(available.c.installed_version, available.c.default_version)
    row = connection.execute(of_vector.where(available.c.name == "vector")).one_or_none()
    version = (row.installed_version or row.default_version) if row else None
    if version is None or _numbers(version) < LEAST_VERSION:
        has = f"has pgvector {version}" if version else "does not have the extension vector"
        raise RecommenderError(
            f"this server {has}: install pgvector 0.8 or newer on the server, then, if an older one"
            " is in use, run ALTER EXTENSION vector UPDATE"
        )
    if row is None or row.installed_version is None:
        connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS vector"))
    if connection.scalar(sa.select(sa.func.to_regtype("halfvec"))) is None:
        raise RecommenderError(
            "the extension vector is in a schema that search_path does not name: add that schema to"
            " search_path"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
