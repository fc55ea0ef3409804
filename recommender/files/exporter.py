"""Write users, videos, events and all other kinds of rows to CSV or JSON Lines.

Rows are ordered by id. Imported into an empty database they give the same feeds, ties included, and
exporting these gives the same bytes. One statement reads all rows of a kind, so they are a
consistent snapshot. The rows are fetched in batches, so memory does not grow with the table.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TextIO, TypeAlias, get_args

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session, aliased

from recommender.database import lookup
from recommender.database.expressions import Statement, materialized, unless_distributed
from recommender.database.schema import check_first_rows
from recommender.database.spaces import embeddings
from recommender.database.transactions import translate_errors
from recommender.files.created_file import created_file
from recommender.formats import scalars
from recommender.formats.rows import (
    BLOCK_COLUMNS,
    CANDIDATE_COLUMNS,
    EMBEDDING_COLUMNS,
    EVENT_COLUMNS,
    FOLLOW_COLUMNS,
    MUTE_COLUMNS,
    USER_COLUMNS,
    VIDEO_COLUMNS,
    Column,
    Columns,
    FileKind,
)
from recommender.formats.vectors import vector
from recommender.formats.visibility import PUBLISHED, audience_of
from recommender.models import (
    Block,
    EventRow,
    Follow,
    Hashtag,
    MutedCreator,
    MutedHashtag,
    MutedKeyword,
    MutedSound,
    OutsideCandidate,
    Sound,
    User,
    UserHashtag,
    UserSound,
    Video,
    VideoCaption,
    VideoHashtag,
)
from recommender.models.tables import USERS
from recommender.telemetry import traced

FETCHED_ROWS = 2_000
"""The number of rows fetched per batch."""

Format: TypeAlias = Literal["csv", "jsonl"]

FORMATS: tuple[Format, ...] = get_args(Format)


def _joined(name: Any, link: Any, *conditions: Any) -> Any:
    """Return a scalar subquery: the names behind a link table, joined to one text in any order."""
    joined = sa.func.aggregate_strings(_importable(name), scalars.LIST_SEPARATOR)
    return sa.select(joined).join(link, conditions[0]).where(*conditions[1:]).scalar_subquery()


def _importable(name: Any) -> Any:
    """Return a hashtag or a sound; an erased one has the separator of lists in its name."""
    return sa.func.replace(name, scalars.LIST_SEPARATOR, ":")


def _names_of_users(name: Any, link: Any, is_its: Any) -> Any:
    """Return the names that users declared as one text: a look-up per user, on Citus one list."""
    of_user = _joined(name, link, is_its, link.user_id == User.id)
    joined = sa.func.aggregate_strings(_importable(name), scalars.LIST_SEPARATOR).label("names")
    every = sa.select(link.user_id, joined).join(link, is_its).group_by(link.user_id)
    listed = materialized(every.cte(f"names_of_{link.__tablename__}"))
    its = sa.select(listed.c.names).where(listed.c.user_id == User.id).scalar_subquery()
    return unless_distributed(of_user, its)


def users_query() -> Statement:
    """Return the SELECT of all users but aliases, as rows of the kind users."""
    interests = _names_of_users(Hashtag.name, UserHashtag, UserHashtag.hashtag_id == Hashtag.id)
    sounds = _names_of_users(Sound.key, UserSound, UserSound.sound_id == Sound.id)
    columns = (User.key, User.language, User.country, User.device, User.created_at)
    users = sa.select(*columns, interests, sounds, User.discoverable)
    return users.where(User.merged_into.is_(None)).order_by(User.id)


def videos_query() -> Statement:
    """Return the SELECT of all videos, as rows of the kind videos."""
    tags = _joined(
        Hashtag.name, VideoHashtag,
        VideoHashtag.hashtag_id == Hashtag.id, VideoHashtag.video_id == Video.id,
    )  # fmt: skip
    shown = (Video.language, Video.country, Video.duration_ms, Video.orientation)
    is_erased = Video.published_at == scalars.ERASED
    # No host can give the time of an erased video.
    earliest = sa.literal(scalars.EARLIEST, Video.__table__.c.published_at.type)
    published_at = sa.case((is_erased, earliest), else_=Video.published_at)
    status = sa.case((Video.status.in_(PUBLISHED), "published"), else_=Video.status)
    return (
        sa.select(Video.key, User.key, VideoCaption.caption, tags, _importable(Sound.key), *shown)
        .add_columns(published_at, status, Video.format, Video.visibility)
        .outerjoin(User, User.id == Video.creator_id)
        .outerjoin(Sound, Sound.id == Video.sound_id)
        .outerjoin(VideoCaption, VideoCaption.video_id == Video.id)
        .order_by(Video.id)
    )


def follows_query() -> Statement:
    """Return the SELECT of all follows, as rows of the kind follows."""
    creator = aliased(User)
    return (
        sa.select(User.key, creator.key, Follow.created_at)
        .join(Follow, Follow.user_id == User.id)
        .join(creator, creator.id == Follow.creator_id)
        .order_by(Follow.user_id, Follow.creator_id)
    )


def _mutes_of(muted: Any, kind: str, value: Any, *catalogue: Any) -> Statement:
    """Return the SELECT of the mutes of one kind, by the ids of their users."""
    columns = (sa.literal(kind, sa.Text).label("kind"), value.label("value"), muted.muted_at)
    rows = sa.select(muted.user_id, *columns)
    return rows.join(*catalogue) if catalogue else rows


# A table's alias, since an alias of the class would configure all mappers at every import.
_CREATOR = USERS.alias("creator")

MUTES = sa.union_all(
    _mutes_of(
        MutedCreator, "creator", _CREATOR.c.key, _CREATOR, _CREATOR.c.id == MutedCreator.creator_id
    ),
    _mutes_of(
        MutedHashtag, "hashtag", Hashtag.name, Hashtag, Hashtag.id == MutedHashtag.hashtag_id
    ),
    _mutes_of(MutedKeyword, "keyword", sa.func.trim(MutedKeyword.keyword)),
    _mutes_of(MutedSound, "sound", _importable(Sound.key), Sound, Sound.id == MutedSound.sound_id),
).subquery("mutes")
"""The mutes of all kinds."""


def mutes_query() -> Statement:
    """Return the SELECT of all mutes, as rows of the kind mutes."""
    return (
        sa.select(User.key, MUTES.c.kind, MUTES.c.value, MUTES.c.muted_at)
        .join(MUTES, MUTES.c.user_id == User.id)
        .order_by(MUTES.c.user_id, MUTES.c.kind, MUTES.c.value)
    )


def blocks_query() -> Statement:
    """Return the SELECT of all blocks, as rows of the kind blocks."""
    other = aliased(User)
    return (
        sa.select(User.key, other.key, Block.blocked_at)
        .join(Block, Block.user_id == User.id)
        .join(other, other.id == Block.other_id)
        .where(Block.direction == "by_me")
        .order_by(Block.user_id, Block.other_id)
    )


def events_query() -> Statement:
    """Return the SELECT of all logged events, as rows of the kind events."""
    event = EventRow
    return (
        sa.select(event.key, User.key, Video.key, event.kind, event.at)
        .add_columns(event.watch_ms, event.completion)
        .join(User, User.id == event.user_id)
        .join(Video, Video.id == event.video_id)
        .order_by(event.user_id, event.key)
    )


def candidates_query() -> Statement:
    """Return the SELECT of all candidates from outside, as rows of the kind candidates."""
    row = OutsideCandidate
    return (
        sa.select(row.source, User.key, Video.key, row.score, row.expires_at)
        .join(User, User.id == row.user_id)
        .join(Video, Video.id == row.video_id)
        .order_by(row.user_id, row.source, row.video_id)
    )


QUERIES: Mapping[str, tuple[Columns, Callable[[], Statement]]] = {
    "users": (USER_COLUMNS, users_query),
    "videos": (VIDEO_COLUMNS, videos_query),
    "follows": (FOLLOW_COLUMNS, follows_query),
    "mutes": (MUTE_COLUMNS, mutes_query),
    "blocks": (BLOCK_COLUMNS, blocks_query),
    "events": (EVENT_COLUMNS, events_query),
    "candidates": (CANDIDATE_COLUMNS, candidates_query),
}
"""The kinds with one SELECT each; there is one for each space of embeddings."""

COLUMNS = {**{kind: columns for kind, (columns, _) in QUERIES.items()},
           "embeddings": EMBEDDING_COLUMNS}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The result of an export: the number of rows written, and the seconds it took."""

    kind: str
    file: str
    written: int
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """Return the report as `export` prints it."""
        return asdict(self)


@traced
def export_file(
    engine: Engine, kind: FileKind, file: str, *, form: Format | None = None
) -> ExportReport:
    """Write all rows of a kind to a file. After an error there is no new file.

    Args:
        engine: a prepared engine.
        kind: ``users``, ``videos``, ``follows``, ``mutes``, ``blocks``, ``events``,
            ``candidates`` or ``embeddings``.
        file: a path, or ``-`` for standard output; a path that ends in ``.gz`` is compressed.
        form: ``csv`` or ``jsonl``; None is ``jsonl`` for a path that ends in ``.jsonl`` or
            ``.jsonl.gz``, else ``csv``.

    Raises:
        InvalidValue: there is no such kind or format.
        NotFound: the file's folder does not exist.
        NotPermitted: the file may not be written.
        StorageFailure: the disk is full or failing.
    """
    scalars.parse_named("kind", scalars.one_of(tuple(COLUMNS)), kind)
    by_name = "jsonl" if file.removesuffix(".gz").endswith(".jsonl") else "csv"
    chosen = scalars.parse_named("format", scalars.one_of(FORMATS), form or by_name)
    started = time.monotonic()
    write = _write_json if chosen == "jsonl" else _write_csv
    with translate_errors(), Session(engine) as session:
        check_first_rows(session)
        with created_file(file) as text:
            written = write(text, COLUMNS[kind], exported(session, kind))
    return ExportReport(kind, file, written, round(time.monotonic() - started, 3))


def exported(session: Session, kind: str) -> Iterator[list[Any]]:
    """Yield the values of every row of a kind, as JSON Lines has them, in the order of its columns.

    Args:
        session: the caller's transaction.
        kind: a key of `COLUMNS`.
    """
    is_one = kind in QUERIES
    for statement in [QUERIES[kind][1]()] if is_one else embeddings(lookup.connection(session)):
        rows = session.execute(statement.execution_options(yield_per=FETCHED_ROWS))
        yield from plain_rows(COLUMNS[kind], rows)


def _write_csv(text: TextIO, columns: Columns, rows: Iterable[list[Any]]) -> int:
    # Lines end with CRLF, because with LF alone the writer would not quote a lone CR.
    writer = csv.writer(text)
    writer.writerow(columns)
    written = 0
    for values in rows:
        writer.writerow(map(_cell, values))
        written += 1
    return written


def _cell(value: Any) -> Any:
    """Return a value as a cell; a list is joined, or is JSON if it would be read as JSON."""
    if isinstance(value, bool):
        return json.dumps(value)
    if not isinstance(value, list):
        return value
    if any(isinstance(part, float) for part in value):  # a vector
        return json.dumps(value)
    joined = scalars.LIST_SEPARATOR.join(value)
    return json.dumps(value, ensure_ascii=False) if joined.startswith("[") else joined


def _write_json(text: TextIO, columns: Columns, rows: Iterable[list[Any]]) -> int:
    written = 0
    for values in rows:
        row = dict(zip(columns, values, strict=True))
        text.write(json.dumps(row, ensure_ascii=False) + "\n")
        written += 1
    return written


def plain_rows(columns: Columns, rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield each row's values as the formats have them: times as text, lists sorted."""
    writers = [_writer(name, column) for name, column in columns.items()]
    for row in rows:
        yield [write(value) for write, value in zip(writers, row, strict=True)]


def _writer(name: str, column: Column) -> Callable[[Any], Any]:
    if name == "audience":
        return audience_of
    if column.parse is vector:
        return lambda value: [float(f"{number:.9g}") for number in value.tolist()]
    if column.many:
        return _plain_list
    return _plain_time if column.parse in scalars.TIME_PARSERS else _same


def _same(value: Any) -> Any:
    return value


def _plain_list(value: str | None) -> list[str]:
    return sorted(value.split(scalars.LIST_SEPARATOR)) if value else []


def _plain_time(value: Any) -> str | None:
    return scalars.written_time(value) if value else None
