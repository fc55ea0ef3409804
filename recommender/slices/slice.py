"""Write a slice: an SQLite file in which the pages of some users are the same."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, cast

import sqlalchemy as sa
from sqlalchemy import URL, Connection, Engine, Table
from sqlalchemy.orm import Session

from recommender.database import lookup, migrations
from recommender.database.engine import create_engine
from recommender.database.registered import OPTION, kept_registry
from recommender.database.spaces import create_space, dimensions_of, found_space
from recommender.database.transactions import translate_errors, writing
from recommender.errors import InvalidValue
from recommender.feed.resolve import reading_time
from recommender.files.created_file import named_when_whole
from recommender.formats import scalars
from recommender.formats.plain import plain_fields
from recommender.formats.scalars import AnyKey
from recommender.models.tables import HASHTAGS, SOUNDS, USERS, VIDEOS
from recommender.ranking.registry import Registry, known_registry
from recommender.settings import Settings
from recommender.slices.names import (
    CHUNK,
    Names,
    keyword_stand_ins,
    session_stand_ins,
    stand_ins,
    with_seed,
)
from recommender.slices.page_rows import PageRows, add_pages
from recommender.slices.rules import (
    MUTED_KEYWORDS,
    RULES,
    WHOLE,
    Context,
    Row,
    Rule,
    replaced,
    rows_of,
    streamed,
)
from recommender.telemetry import traced

MOST_USERS = 100
"""The largest number of users of a slice."""

WORDS: Mapping[Table, tuple[str, str]] = {
    VIDEOS: ("videos", "video"),
    HASHTAGS: ("hashtags", "tag"),
    SOUNDS: ("sounds", "sound"),
    USERS: ("users", "user"),
}
"""The tables with keys: each with its field of `Names`, and the word of its stand-ins."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice that was written.

    Attributes:
        file: its path.
        as_of: the reading time for which its pages are the same, in UTC.
        users: the keys of the chosen users in the slice, by their own keys.
        rows: the number of its rows, by table.
        bytes: its size.
        seconds: how long it took.
    """

    file: str
    as_of: datetime
    users: Mapping[str, str]
    rows: Mapping[str, int]
    bytes: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the slice as `slice` prints it."""
        return {**plain_fields(self), "users": dict(self.users), "rows": dict(self.rows)}


@traced
def slice_users(
    engine: Engine,
    users: Iterable[AnyKey],
    file: str,
    *,
    as_of: datetime | None = None,
    map_file: str | None = None,
    settings: Settings | None = None,
) -> Slice:
    """Write an SQLite file with what the pages of some users read, for a bug report.

    In the file, For You, every feed, `following` and `trending` have the same videos for these
    users, in the same order, with the same scores, signals, sources and reasons, at the same
    reading time and with the same settings. Every key, hashtag, caption and muted word is replaced
    by a stand-in. It reads one snapshot of the database, and writes nothing to it.

    Args:
        engine: a prepared engine.
        users: the keys of 1 to 100 users.
        file: the path of the new file, which only its owner can read.
        as_of: the reading time, with an offset; None for now.
        map_file: the path of a new JSON file with the key for each stand-in, by kind; None for no
            such file.
        settings: the settings of the pages; None for the environment's.

    Returns:
        The slice, with the stand-ins of the users.

    Raises:
        InvalidValue: a key is malformed, or a file exists.
        UnknownUser: there is no such user.
        NotFound: the folder of a file does not exist.
        NotPermitted: there is no permission to write a file.
        StorageFailure: the disk is full or failing.
    """
    started, moment = time.monotonic(), reading_time(as_of)
    keys = _checked_keys(users)
    for path in filter(None, (file, map_file)):
        _check_new(path)
    with named_when_whole(file) as unfinished:
        with translate_errors(), _snapshot(engine) as source, _new_database(unfinished) as target:
            context, own = _read(source, keys, moment, settings)
            counts = _copy(source, target, context, own)
        size = unfinished.stat().st_size
        if map_file:
            _write_map(map_file, context.names.keys)
    named = {key: context.names.users[user_id] for key, (user_id, _) in own.items()}
    return Slice(file, moment, named, counts, size, round(time.monotonic() - started, 3))


def _checked_keys(users: Iterable[AnyKey]) -> list[str]:
    """Return the distinct keys; `InvalidValue` unless there are 1 to `MOST_USERS`."""
    if isinstance(users, str) or not isinstance(users, Iterable):
        raise InvalidValue(f"users: {scalars.shown(users)} is no list of keys")
    keys = dict.fromkeys(scalars.parse_named("user", scalars.key, user) for user in users)
    if not 1 <= len(keys) <= MOST_USERS:
        raise InvalidValue(f"users: {len(keys):,} are given, not 1 to {MOST_USERS}")
    return list(keys)


def _check_new(path: str) -> None:
    if Path(path).exists():
        raise InvalidValue(f"the file {scalars.shown(path)} exists: name another")


def _write_map(path: str, keys: Mapping[str, Mapping[str, str]]) -> None:
    with named_when_whole(path) as unfinished:
        unfinished.write_text(json.dumps(keys, ensure_ascii=False, indent=2) + "\n", "utf-8")


@contextmanager
def _snapshot(engine: Engine) -> Iterator[Session]:
    """Open a session that reads one snapshot, without what the host registered of its own."""
    options: dict[str, Any] = {OPTION: _without_own(known_registry(kept_registry(engine)))}
    if engine.dialect.name != "sqlite":  # its transactions always read one snapshot
        options["isolation_level"] = "REPEATABLE READ"
    with Session(engine.execution_options(**options)) as session:
        yield session


@lru_cache
def _without_own(registry: Registry) -> Registry:
    """Return a registry with the names of candidates and the space only, which are our tables."""
    return Registry(
        outside=registry.outside, space=registry.space, near=registry.near, name=registry.name
    )


@contextmanager
def _new_database(path: Path) -> Iterator[Engine]:
    """Make the tables in an empty file, which is one file again after the block."""
    engine = create_engine(URL.create("sqlite", database=str(path)))
    try:
        migrations.upgrade(engine)
        yield engine
        engine.dispose()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
    finally:
        engine.dispose()
        for ending in ("-wal", "-shm"):
            Path(f"{path}{ending}").unlink(missing_ok=True)


Own: TypeAlias = Mapping[str, tuple[int, str]]
"""The chosen users by the given keys: their row ids and their own keys."""


def _read(
    source: Session, keys: Sequence[str], as_of: datetime, settings: Settings | None
) -> tuple[Context, Own]:
    """Read which rows the slice has, and name what stands in no table of keys."""
    rows, own = PageRows(), {}
    for key in keys:
        request = add_pages(source, key, as_of, rows, settings)
        own[key] = (cast(int, request.user_id), request.user)
    muted = sa.select(MUTED_KEYWORDS.c.keyword).where(MUTED_KEYWORDS.c.user_id.in_(rows.users))
    names = Names(
        keywords=keyword_stand_ins(set(lookup.run(source, muted).scalars())),
        terms={term: number for number, term in enumerate(sorted(rows.terms), start=1)},
        sessions=session_stand_ins(rows.sessions),
    )
    names.keys["keywords"] = {v.strip(): key.strip() for key, v in names.keywords.items()}
    names.keys["sessions"] = {str(v): str(key) for key, v in names.sessions.items()}
    return Context(rows, names, as_of.date()), own


def _copy(source: Session, target: Engine, context: Context, own: Own) -> dict[str, int]:
    """Copy the rows of all tables with their stand-ins; return their numbers, by table."""
    rules = (*RULES, *_rules_of_space(source, target))
    counts = {}
    with writing(target).begin() as connection:
        connection.execute(sa.text("PRAGMA defer_foreign_keys = ON"))
        for table in WHOLE:
            connection.execute(sa.delete(table))
            every = (replaced(table, row, context) for row in streamed(source, sa.select(table)))
            counts[table.name] = _insert(connection, table, every)
        for rule in rules:
            if rule.table in WORDS:
                _name(source, rule, context, own)
            rows = rows_of(source, rule, context)
            counts[rule.table.name] = _insert(connection, rule.table, rows)
    return counts


def _rules_of_space(source: Session, target: Engine) -> Iterator[Rule]:
    """Make the space of the registry, if it has one, and yield the rule for its vectors."""
    if space := known_registry(lookup.registry(source)).space:
        vectors = found_space(lookup.connection(source), space)
        create_space(target, space, dim=dimensions_of(vectors))
        yield Rule(vectors, "video_id", "videos")


def _name(source: Session, rule: Rule, context: Context, own: Own) -> None:
    """Find the stand-ins of the rows of a table with keys."""
    kind, word = WORDS[rule.table]
    names, keys = stand_ins(source, rule.table, getattr(context.rows, rule.among), word)
    if rule.table is USERS:
        for row_id, key in own.values():
            keys.pop(names[row_id])
            names[row_id] = with_seed(names[row_id], key, context.day)
            keys[names[row_id]] = key
    setattr(context.names, kind, names)
    context.names.keys[kind] = dict(sorted(keys.items()))


def _insert(connection: Connection, table: Table, rows: Iterator[Row]) -> int:
    """Insert rows in batches; return their number."""
    number = 0
    while some := list(islice(rows, CHUNK)):
        connection.execute(sa.insert(table), some)
        number += len(some)
    return number
