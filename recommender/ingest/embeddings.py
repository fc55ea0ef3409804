"""Embeddings: the vectors that a host's models compute for videos."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from recommender.database import lookup
from recommender.database.schema import check_first_rows
from recommender.database.session import Session
from recommender.database.spaces import dimensions_of, found_space
from recommender.database.vectors import Vector, packed
from recommender.errors import InvalidValue, NotFound, RecommenderError, UnknownVideo
from recommender.formats import scalars
from recommender.formats.rows import EMBEDDING_COLUMNS, EmbeddingRow, parse_row
from recommender.formats.vectors import space_name, vector
from recommender.ingest.values import Counts, raise_first
from recommender.models.tables import VIDEOS
from recommender.telemetry import traced

Row = Mapping[str, Any]

ROW_COLUMNS = {name: column for name, column in EMBEDDING_COLUMNS.items() if name != "space"}
"""The columns of `EmbeddingRow`."""

ANY_VECTOR = [1.0]
"""A placeholder for a vector that was parsed already."""


class _Stored(NamedTuple):
    """A row of a space's table."""

    video_id: int
    vector: Any


@traced
def upsert_embeddings(session: Session, space: str, rows: Iterable[EmbeddingRow]) -> Counts:
    """Create or replace the vectors of videos in a space.

    Vectors are scaled to length 1. Other videos keep their vectors.

    Args:
        session: the caller's transaction; nothing is committed.
        space: the name of a space that `create_space` made.
        rows: mappings of `id`, the key of a video, and `vector`, its numbers: a list, or an array
            of NumPy. Rows of one video apply one after the other.

    Returns:
        The numbers of rows that inserted, updated and did not change a vector.

    Raises:
        InvalidValue: a row is not valid: its vector has another number of dimensions than the
            space, a number that is not finite, or only zeros; nothing is written.
        NotFound: there is no such space.
        UnknownVideo: there is no such video; nothing is written.
    """
    name = scalars.parse_named("space", space_name, space)
    parsed = [{"space": name, **_parsed(row)} for row in rows]
    return apply_embeddings(session, parsed, strict=True)


def _parsed(row: Any) -> Row:
    """Return a parsed row. An array of NumPy is parsed apart, as it has no truth value.

    Raises:
        InvalidValue: it is not valid.
    """
    given: Any = row.get("vector") if isinstance(row, Mapping) else None
    if not hasattr(given, "dtype"):
        return parse_row(ROW_COLUMNS, row)
    direction = scalars.parse_named("vector", vector, given)
    return {**parse_row(ROW_COLUMNS, {**row, "vector": ANY_VECTOR}), "vector": direction}


def apply_embeddings(session: Session, rows: Sequence[Row], *, strict: bool = False) -> Counts:
    """Write vectors; leave out and report rows with an unknown video or space, or a wrong length.

    Args:
        session: the caller's transaction; nothing is committed.
        rows: mappings of `space`, `id` and `vector`, as `rows.parse_row` returns.
        strict: raise the error of the first such row instead, and write nothing.
    """
    if not rows:
        return Counts()
    spaces = _spaces(session, rows)
    videos = _locked_videos(session, {row["id"] for row in rows})
    if not videos:
        check_first_rows(session)
    errors = {place: _error(row, spaces, videos) for place, row in enumerate(rows)}
    rejected = {place: error for place, error in errors.items() if error is not None}
    if strict:
        raise_first("rows", rejected, len(rows))
    counts = Counts()
    for name, table in spaces.items():
        good = [
            _Stored(videos[row["id"]], row["vector"])
            for place, row in enumerate(rows)
            if place not in rejected and row["space"] == name
        ]
        if isinstance(table, Table):
            for each_once in _rounds(good):
                counts += _write(session, table, each_once)
    return Counts(counts.inserted, counts.updated, counts.unchanged, rejected=rejected)


def _spaces(session: Session, rows: Sequence[Row]) -> dict[str, Table | NotFound]:
    """Return the tables of the spaces that rows name; an error for one that is not there."""
    connection = lookup.connection(session)
    spaces: dict[str, Table | NotFound] = {}
    for name in sorted({row["space"] for row in rows}):  # else two imports could block each other
        try:
            spaces[name] = found_space(connection, name)
        except NotFound as error:
            spaces[name] = error
    return spaces


def _locked_videos(session: Session, keys: Iterable[str]) -> dict[str, int]:
    """Return the ids of videos, which are not erased before the transaction ends."""
    named = [(key,) for key in sorted(keys)]
    found = lookup.find(session, [VIDEOS.c.key], named, [VIDEOS.c.key, VIDEOS.c.id], key_share=True)
    return dict(map(tuple, found))


def _error(
    row: Row, spaces: Mapping[str, Table | NotFound], videos: Mapping[str, int]
) -> RecommenderError | None:
    space = spaces[row["space"]]
    if isinstance(space, NotFound):
        return space
    if row["id"] not in videos:
        return UnknownVideo(f"there is no video {scalars.shown(row['id'])}")
    length, wanted = len(row["vector"]), dimensions_of(space)
    if length != wanted:
        return InvalidValue(
            f"vector: it has {length:,} numbers, and the space {row['space']} has {wanted:,}"
            " dimensions"
        )
    return None


def _rounds(rows: Sequence[_Stored]) -> Iterator[list[_Stored]]:
    """Yield rows that apply one after the other: in each round every video once, in order."""
    occurrences: defaultdict[int, list[_Stored]] = defaultdict(list)
    for row in rows:
        occurrences[row.video_id].append(row)
    by_video = [occurrences[video_id] for video_id in sorted(occurrences)]
    for number in range(max(map(len, by_video), default=0)):
        yield [each[number] for each in by_video if number < len(each)]


def _write(session: Session, table: Table, rows: Sequence[_Stored]) -> Counts:
    """Write a row for each of some videos; return what became of them."""
    ids = [(row.video_id,) for row in rows]
    found = lookup.find(session, [table.c.video_id], ids, [table.c.video_id])
    existing = {video_id for (video_id,) in found}
    written = _upserted(session, table, rows)
    inserted, updated = len(written - existing), len(written & existing)
    return Counts(inserted, updated, len(rows) - inserted - updated)


def _upserted(session: Session, table: Table, rows: Sequence[_Stored]) -> set[int]:
    """Insert or replace vectors; return the ids of the videos whose vectors are new or other."""
    if lookup.is_sqlite(session):
        return _upserted_on_sqlite(session, table, rows)
    connection, dimensions = lookup.connection(session), dimensions_of(table)
    listed = (
        sa.func.unnest(sa.bindparam("ids", type_=sa.ARRAY(sa.BigInteger)))
        .table_valued("video_id", with_ordinality="place")
        .render_derived(name="listed")
    )
    numbers = sa.select(
        sa.bindparam("numbers", type_=packed(connection)).label("numbers")
    ).subquery("packed")
    first = (listed.c.place - 1) * dimensions + 1
    own = sa.type_coerce(numbers.c.numbers, sa.ARRAY(sa.REAL))[first : first + dimensions - 1]
    vectors = sa.select(listed.c.video_id, sa.cast(own, Vector(dimensions))).select_from(
        listed.join(numbers, sa.true())
    )
    insert = postgresql.insert(table).from_select(["video_id", "vector"], vectors)
    new = insert.excluded.vector
    upsert = insert.on_conflict_do_update(
        index_elements=[table.c.video_id], set_={"vector": new}, where=table.c.vector != new
    ).returning(table.c.video_id)
    values = {"ids": [row.video_id for row in rows], "numbers": [row.vector for row in rows]}
    return set(lookup.run(session, upsert, values).scalars())


def _upserted_on_sqlite(session: Session, table: Table, rows: Sequence[_Stored]) -> set[int]:
    keys = [(row.video_id,) for row in rows]
    found = lookup.find(session, [table.c.video_id], keys, [table.c.video_id, table.c.vector])
    current = {video_id: vector.tobytes() for video_id, vector in found}
    changed = [row for row in rows if current.get(row.video_id) != row.vector.tobytes()]
    if changed:
        lookup.run(session, sa.insert(table).prefix_with("OR REPLACE"),
                   [row._asdict() for row in changed])  # fmt: skip
    return {row.video_id for row in changed}
