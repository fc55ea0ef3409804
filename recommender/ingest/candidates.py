"""Candidates from outside: videos that a host's models or editors propose for single users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from recommender.database import bulk, lookup
from recommender.database.schema import check_first_rows
from recommender.database.session import Session
from recommender.errors import RecommenderError, UnknownUser, UnknownVideo
from recommender.formats import scalars
from recommender.formats.rows import CANDIDATE_COLUMNS, CandidateRow, parse_row
from recommender.ingest.users import locked_ids
from recommender.ingest.values import Counts, raise_first
from recommender.models.tables import OUTSIDE_CANDIDATES, VIDEOS
from recommender.telemetry import traced

Row = Mapping[str, Any]

Key = tuple[int, str, int]
"""The id of a user, the name of a source, and the id of a video."""

Proposal = tuple[float, datetime | None]
"""A score, and the time from which the candidate is not read."""

ROW_COLUMNS = {name: column for name, column in CANDIDATE_COLUMNS.items() if name != "source"}
"""The columns of `CandidateRow`."""


@traced
def upsert_candidates(session: Session, source: str, rows: Iterable[CandidateRow]) -> Counts:
    """Create or update a source's candidates for users.

    A page reads them if the host's registry has a source of this name. The users are locked, in
    the order of their keys. Candidates that are not in `rows` stay until they expire.

    Args:
        session: the caller's transaction; nothing is committed.
        source: the name of the source: one word of letters, digits and ``_``, at most 63 bytes.
        rows: mappings of `user` (required), `video` (required), `score` (required, 0 to 1) and
            `expires_at`, the time from which the candidate is not read (never if empty). Rows of
            one user and video apply one after the other.

    Returns:
        The numbers of rows that inserted, updated and did not change a candidate.

    Raises:
        InvalidValue: the source or a row is not valid; nothing is written.
        UnknownUser: there is no such user; nothing is written.
        UnknownVideo: there is no such video; nothing is written.
    """
    name = scalars.parse_named("source", scalars.identifier, source)
    parsed = [{"source": name, **parse_row(ROW_COLUMNS, row)} for row in rows]
    return apply_candidates(session, parsed, strict=True)


def apply_candidates(session: Session, rows: Sequence[Row], *, strict: bool = False) -> Counts:
    """Write candidates; leave out and report rows with an unknown user or video.

    Args:
        session: the caller's transaction; nothing is committed.
        rows: mappings of `source`, `user`, `video`, `score` and optionally `expires_at`, as
            `rows.parse_row` returns.
        strict: raise the error of the first such row instead, and write nothing.
    """
    if not rows:
        return Counts()
    users = locked_ids(session, rows)
    videos = lookup.ids(session, VIDEOS, (str(row["video"]) for row in rows))
    if not (users and videos):
        check_first_rows(session)
    rejected = _unknown(rows, users, videos)
    if strict:
        raise_first("rows", rejected, len(rows))
    keyed = [
        ((users[row["user"]], row["source"], videos[row["video"]]), row)
        for place, row in enumerate(rows)
        if place not in rejected
    ]
    counts = _write(session, keyed)
    return Counts(*counts, rejected=rejected)


def _unknown(
    rows: Sequence[Row], users: Mapping[str, int], videos: Mapping[str, int]
) -> dict[int, RecommenderError]:
    """Return the errors of the rows whose user or video does not exist, by their places."""
    errors: dict[int, RecommenderError] = {}
    for place, row in enumerate(rows):
        if row["user"] not in users:
            errors[place] = UnknownUser(f"there is no user {scalars.shown(row['user'])}")
        elif row["video"] not in videos:
            errors[place] = UnknownVideo(f"there is no video {scalars.shown(row['video'])}")
    return errors


def _write(session: Session, keyed: Sequence[tuple[Key, Row]]) -> tuple[int, int, int]:
    """Write rows; return how many inserted a candidate, updated one, and changed none."""
    current = _stored(session, [key for key, _ in keyed])
    after = dict(current)
    inserted = updated = 0
    for key, row in keyed:
        before = after.get(key)
        kept = before[1] if before else None
        after[key] = row["score"], row.get("expires_at", kept)
        inserted += before is None
        updated += before is not None and before != after[key]
    changed = sorted(key for key, row in after.items() if current.get(key) != row)
    columns = bulk.columns_of(OUTSIDE_CANDIDATES.c.keys(), [(*k, *after[k]) for k in changed])
    if columns:
        merge = {"score": bulk.replace, "expires_at": bulk.replace}
        bulk.insert_columns(session, OUTSIDE_CANDIDATES, columns, merge=merge)
    return inserted, updated, len(keyed) - inserted - updated


def _stored(session: Session, keys: Sequence[Key]) -> dict[Key, Proposal]:
    """Return the stored candidates among keys."""
    if not keys:
        return {}
    columns = list(OUTSIDE_CANDIDATES.primary_key)
    found = lookup.find(session, columns, list(dict.fromkeys(keys)), list(OUTSIDE_CANDIDATES.c))
    return {tuple(row[:3]): tuple(row[3:]) for row in found}
