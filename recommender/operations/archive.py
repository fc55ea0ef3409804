"""Export everything stored about one person to a JSON Lines file that `import` can read.

Each line is ``{"kind": …, "row": {…}}``. Lines of the interchange format's kinds have its columns,
and `import` reads them from the archive. The other lines are for people to read and have names in
place of ids: interactions, affinities, and the served videos with their scores and sources.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Engine, Table
from sqlalchemy.orm import Session

from recommender.database import aliases
from recommender.database.expressions import Statement
from recommender.database.schema import first_state
from recommender.database.transactions import translate_errors
from recommender.feed.resolve import learning_at
from recommender.files.created_file import created_file
from recommender.files.exporter import FETCHED_ROWS, MUTES, QUERIES, ExportReport, plain_rows
from recommender.files.reader import ARCHIVE_KEYS
from recommender.formats import scalars
from recommender.formats.scalars import AnyKey
from recommender.ingest.mutes import KINDS
from recommender.ingest.users import user_id
from recommender.models import UserHashtag, UserSound
from recommender.models.learned import SUBJECTS
from recommender.models.tables import (
    AFFINITIES,
    BLOCKS,
    EVENTS,
    EXPERIMENTS,
    FEEDS,
    FOLLOWS,
    HASHTAGS,
    LEARNING_STATE,
    OUTSIDE_CANDIDATES,
    PROFILES,
    SESSIONS,
    SOUNDS,
    USERS,
    VIDEOS,
)
from recommender.models.types import PREFIX
from recommender.operations.inventory import PER_USER
from recommender.ranking.scoring import score_of
from recommender.telemetry import traced

WHOSE: Mapping[str, ColumnElement[Any]] = {
    "users": USERS.c.id,
    "videos": VIDEOS.c.creator_id,
    "follows": FOLLOWS.c.user_id,
    "mutes": MUTES.c.user_id,
    "blocks": BLOCKS.c.user_id,
    "events": EVENTS.c.user_id,
    "candidates": OUTSIDE_CANDIDATES.c.user_id,
}
"""The column with the owner's id, by kind of the interchange format."""

CONTAINED = (
    FOLLOWS,
    EVENTS,
    BLOCKS,
    OUTSIDE_CANDIDATES,
    *(model.__table__ for model in (UserHashtag, UserSound)),
    *(table for table, _, _ in KINDS.values()),
)
"""The per-user tables that these kinds already contain. A user is not told who blocked them."""

OTHERS: tuple[Table, ...] = tuple(table for table in PER_USER if table not in CONTAINED)

NAMES: Mapping[str, tuple[Table, ColumnElement[Any]]] = {
    "creator": (USERS, USERS.c.key),
    "video": (VIDEOS, VIDEOS.c.key),
    "hashtag": (HASHTAGS, HASHTAGS.c.name),
    "sound": (SOUNDS, SOUNDS.c.key),
    "experiment": (EXPERIMENTS, EXPERIMENTS.c.name),
    "feed": (FEEDS, FEEDS.c.name + "@" + sa.cast(FEEDS.c.version, sa.Text)),
    "profile": (PROFILES, PROFILES.c.name + "@" + sa.cast(PROFILES.c.version, sa.Text)),
}
"""The table and the name column of the rows that an id column refers to."""

Line = tuple[str, Mapping[str, Any]]

_STREAMED = {"yield_per": FETCHED_ROWS}


@traced
def export_user(engine: Engine, user: AnyKey, file: str) -> ExportReport:
    """Write everything stored about a person to a file, from one database snapshot.

    First come their user row, videos, follows, mutes, blocks, events and candidates from outside,
    in the interchange format. Then come interactions, affinities decayed to the time of the export,
    recent engagements, sessions and served videos with scores, sources and signals. Other users
    appear only as creators whom the person follows, muted, blocked, dismissed, was suggested or has
    an affinity for. The keys
    of users who were merged into them give the same file, whose first line names them as `aliases`.

    Args:
        engine: a prepared engine.
        user: the user's key, or an alias.
        file: a path, or ``-`` for standard output; compressed if it ends in ``.gz``. Only
            its owner can read the file.

    Raises:
        InvalidValue: the key is malformed.
        UnknownUser: there is no such user.
        NotFound: the file's folder does not exist.
        NotPermitted: there is no permission to write the file.
        StorageFailure: the disk is full or failing.
    """
    started = time.monotonic()
    is_sqlite = engine.dialect.name == "sqlite"  # its transactions always read one snapshot
    bind = engine if is_sqlite else engine.execution_options(isolation_level="REPEATABLE READ")
    with translate_errors(), Session(bind) as session:
        owner = user_id(session, user)
        with created_file(file) as text:
            written = 0
            for kind, row in _lines(session, owner):
                line = {"kind": kind, "row": row}
                assert line.keys() == ARCHIVE_KEYS  # noqa: S101 - `import` expects these keys
                text.write(json.dumps(line, ensure_ascii=False) + "\n")
                written += 1
    return ExportReport("user", file, written, round(time.monotonic() - started, 3))


def _lines(session: Session, owner: int) -> Iterator[Line]:
    moment = scalars.now()
    read = sa.select(USERS.c.id, USERS.c.key, USERS.c.learned_since)
    person = session.execute(read.where(USERS.c.id.in_(aliases.all_ids(owner)))).all()
    (own,) = (row for row in person if row.id == owner)
    others = sorted(row.key for row in person if row.id != owner)
    about = {"user": own.key, "exported_at": moment, "learned_since": own.learned_since}
    yield "archive", _plain({**about, "aliases": others})
    ids = [row.id for row in person]  # an unfinished merge has left rows under an alias
    for kind, whose in WHOSE.items():
        columns, query = QUERIES[kind]
        result = session.execute(query().where(whose.in_(ids)), execution_options=_STREAMED)
        for values in plain_rows(columns, result):
            yield kind, dict(zip(columns, values, strict=True))
    owned = sa.select(SOUNDS.c.key.label("sound")).where(SOUNDS.c.creator_id.in_(ids))
    yield from _rows(session, "sounds", owned.order_by(SOUNDS.c.id))
    for table in OTHERS:
        rows = _rows(session, table.name.removeprefix(PREFIX), _of(table, ids))
        if table is AFFINITIES:
            rows = _as_of(session, moment, rows)
        yield from _with_contenders(session, rows) if table is SESSIONS else rows


def _rows(session: Session, kind: str, query: Statement) -> Iterator[Line]:
    for row in session.execute(query, execution_options=_STREAMED):
        yield kind, _plain(row._asdict())


def _of(table: Table, ids: Sequence[int]) -> Statement:
    """Return the query for a user's rows of a table, with names in place of ids."""
    columns = [_named(column) for column in table.c if column.name != "user_id"]
    return sa.select(*columns).where(table.c.user_id.in_(ids)).order_by(*table.primary_key)


def _named(column: sa.Column[Any]) -> ColumnElement[Any]:
    """Return the name that an id column refers to, or any other column unchanged."""
    if column.name == "subject_id":
        subject = column.table.c.subject
        cases = [(subject == name, _name_of(name, column)) for name in SUBJECTS]
        return sa.case(*cases).label("name")
    kind = column.name.removesuffix("_id")
    is_id = column.name != kind and kind in NAMES
    return _name_of(kind, column).label(kind) if is_id else column


def _name_of(kind: str, column: sa.Column[Any]) -> sa.ScalarSelect[Any]:
    table, name = NAMES[kind]
    return sa.select(name).where(table.c.id == column).scalar_subquery()


def _as_of(session: Session, moment: datetime, affinities: Iterable[Line]) -> Iterator[Line]:
    """Return affinities decayed to a time, as a feed at that time reads them."""
    learning = learning_at(first_state(session.execute(sa.select(LEARNING_STATE))), moment)
    for kind, row in affinities:
        yield kind, {**row, "score": row["score"] * getattr(learning, row["subject"])}


def _with_contenders(session: Session, sessions: Iterable[Line]) -> Iterator[Line]:
    """Return sessions with the keys of the videos that they carry in place of the row ids."""
    for kind, row in sessions:
        carried = row["contenders"]
        yield kind, {**row, "contenders": carried and _keys_of(session, carried["videos"])}


def _keys_of(session: Session, ids: Sequence[int]) -> list[str]:
    """Return the keys of videos, in the order of their row ids."""
    found = session.execute(sa.select(VIDEOS.c.id, VIDEOS.c.key).where(VIDEOS.c.id.in_(ids)))
    keys = {row.id: row.key for row in found}
    return [keys[each] for each in ids if each in keys]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with values that JSON can represent."""
    return dict(_plain_value(name, value) for name, value in row.items())


def _plain_value(name: str, value: Any) -> tuple[str, Any]:
    if isinstance(value, datetime):
        return name, scalars.written_time(value)
    if isinstance(value, UUID):
        return name, str(value)
    if name == "score_key":
        return "score", score_of(value)
    if name == "sources":
        return name, value.split(scalars.LIST_SEPARATOR) if value else []
    return name, value.strip() if name == "keyword" else value
