"""Videos: create or update, with captions, hashtags and what they say of their creator.

A video has the hashtags that its row lists, and the hashtags in its caption. A published video
counts as an engagement of its creator with its hashtags and sound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from recommender.database import bulk, lookup
from recommender.database.expressions import Statement
from recommender.database.schema import check_first_rows
from recommender.database.session import Session
from recommender.errors import UnknownVideo
from recommender.formats import scalars, text
from recommender.formats.rows import VIDEO_COLUMNS, VideoRow, parse_row
from recommender.formats.scalars import AnyKey, VideoStatus
from recommender.formats.visibility import PUBLIC, PUBLISHED
from recommender.ingest.upserts import (
    VIDEO_SCALARS,
    Row,
    RowsByKey,
    SavedRows,
    get_or_create_ids,
    read_links,
    save_rows,
    select_columns,
    split_rounds,
)
from recommender.ingest.users import LockedUser, lock_user_rows, lock_users
from recommender.ingest.values import Counts
from recommender.ingest.visibility import with_visibility
from recommender.learning.affinities import AffinityChanges, Subjects, read_rules
from recommender.models.tables import (
    CAPTIONS,
    HASHTAGS,
    SOUNDS,
    USERS,
    VIDEO_HASHTAGS,
    VIDEO_TERMS,
    VIDEOS,
)
from recommender.telemetry import traced

MAX_NAMED = 20
"""The number of unknown videos that an error names."""

LEARNED_FROM = ("creator_id", "sound_id", "status", "published_at")
"""The columns of a video on which its creator's affinities depend."""


@traced
def upsert_videos(session: Session, rows: Iterable[VideoRow]) -> Counts:
    """Create or update videos, and create missing creators, sounds and hashtags.

    Args:
        session: the caller's transaction; nothing is committed.
        rows: mappings of `id` (required), `creator`, `published_at` (from the year 1 to 2100),
            `caption`, `hashtags`, `sound`, `language`, `country`, `duration_ms` (milliseconds),
            `orientation`, `status`, `format` (any word), `audience` (``public``, ``followers`` of
            the creator, or ``unlisted``: in no list). Users and creators share one set of keys,
            and a user is never shown their own videos. Rows of the same id apply one after the
            other. Hashtags in the caption are added to the listed ones, up to 300 in all. A new
            caption without a list of hashtags replaces only the hashtags of the previous caption.

    Returns:
        The numbers of rows that inserted, updated and did not change a video.

    Raises:
        InvalidValue: a row is not valid; nothing is written.
    """
    parsed = [parse_row(VIDEO_COLUMNS, row) for row in rows]
    return apply_videos(session, parsed)


def apply_videos(session: Session, rows: Sequence[Row]) -> Counts:
    """Write video rows that `rows.parse_row` returned; see `upsert_videos`."""
    stored = _creators_of(session, list({str(row["id"]) for row in rows}))
    rounds, repeated = split_rounds(rows)
    if len(rounds) > 1:
        # Names are created before any video is locked, so that two transactions cannot deadlock.
        _named(session, {str(index): row for index, row in enumerate(rows)}, stored)
    counts = Counts(unchanged=repeated)
    for number, videos in enumerate(rounds):
        before = _creators_of(session, list(videos)) if number else stored
        counts += _write_videos(session, videos, before)
    return counts


def _creators_of(session: Session, keys: Sequence[str]) -> dict[str, str | None]:
    """Return the creators of existing videos by key; their erasure waits for the transaction."""
    if not keys:
        return {}
    statement = _find_creators(lookup.is_sqlite(session))
    values = lookup.listed_values(session, 1, [(key,) for key in keys])
    return {row.key: row.creator for row in lookup.run(session, statement, values)}


@cache
def _find_creators(on_sqlite: bool) -> Statement:  # noqa: FBT001 - cached by it
    """Build the SELECT of the creators of listed videos."""
    listed = lookup.listed(on_sqlite, (VIDEOS.c.key,))
    # A subquery, because PostgreSQL locks no row of an outer join.
    creator = sa.select(USERS.c.key).where(USERS.c.id == VIDEOS.c.creator_id)
    creator = creator.with_for_update(read=True, key_share=True)
    return sa.select(VIDEOS.c.key, creator.scalar_subquery().label("creator")).select_from(
        listed.join(VIDEOS, VIDEOS.c.key == listed.c.key)
    )


def _write_videos(session: Session, videos: RowsByKey, stored: Mapping[str, str | None]) -> Counts:
    """Write videos by key; `stored` are the creators of the videos that exist."""
    creators, hidden, since, sounds, hashtags = _named(session, videos, stored)
    columns = {key: _video_columns(row, creators, sounds) for key, row in videos.items()}
    must_exist = {key for key in stored if "creator" not in videos[key]}
    defaults = {"status": "published", "visibility": PUBLIC}
    complete = partial(with_visibility, hidden)
    saved = save_rows(session, VIDEOS, columns, defaults, must_exist=must_exist, complete=complete)
    captions = _save_captions(session, saved, videos)
    tags = _save_video_hashtags(session, saved, videos, captions, hashtags)
    _learn_published(session, saved, tags, since)
    return saved.counts(captions.changed | tags.changed)


class _Named(NamedTuple):
    """The users, sounds and hashtags that rows of videos name.

    Attributes:
        creators, sounds, hashtags: their ids.
        hidden: the ids of the creators who are not discoverable.
        since: the creators' `learned_since`, by id.
    """

    creators: dict[str, int]
    hidden: frozenset[int]
    since: dict[int, datetime | None]
    sounds: dict[str, int]
    hashtags: dict[str, int]


def _named(session: Session, videos: RowsByKey, stored: Mapping[str, str | None]) -> _Named:
    """Lock the creators of videos, and create what the rows name."""
    named = (row.get("creator", stored.get(str(row["id"]))) for row in videos.values())
    wanted = (str(key) for key in named if key is not None)
    locked = _lock_creators(session, wanted, stored.values())
    sound_keys = (str(row["sound"]) for row in videos.values() if row.get("sound"))
    return _Named(
        creators={user.key: user.id for user in locked},
        hidden=frozenset(user.id for user in locked if not user.discoverable),
        since=_since(locked),
        sounds=get_or_create_ids(session, SOUNDS, sound_keys),
        hashtags=get_or_create_ids(session, HASHTAGS, _named_hashtags(videos)),
    )


@traced
def set_video_status(
    session: Session, videos: AnyKey | Iterable[AnyKey], status: VideoStatus
) -> Counts:
    """Set the status of videos: published, in review or removed. All changes are allowed.

    Args:
        session: the caller's transaction; nothing is committed.
        videos: the key of one video, or the keys of several.
        status: one of `scalars.STATUSES`.

    Returns:
        The numbers of videos whose status changed (`updated`) and did not (`unchanged`).

    Raises:
        InvalidValue: a key or the status is not valid; nothing is written.
        UnknownVideo: one of the videos does not exist; nothing is written.
    """
    several = [videos] if isinstance(videos, AnyKey) else videos
    keys = dict.fromkeys(scalars.parse_named("video", scalars.key, video) for video in several)
    new = scalars.parse_named("status", scalars.one_of(scalars.STATUSES), status)
    stored = _creators_of(session, list(keys))
    if missing := [key for key in keys if key not in stored]:
        check_first_rows(session)
        raise _unknown_videos(missing)
    return _write_videos(session, {key: {"id": key, "status": new} for key in keys}, stored)


def _unknown_videos(keys: Sequence[str]) -> UnknownVideo:
    """Return the error of videos that do not exist; it names 20 of them."""
    if len(keys) == 1:
        return UnknownVideo(f"there is no video {scalars.shown(keys[0])}")
    named = ", ".join(map(scalars.shown, keys[:MAX_NAMED]))
    others = f" and {len(keys) - MAX_NAMED:,} more" if len(keys) > MAX_NAMED else ""
    return UnknownVideo(f"there are no videos {named}{others}")


def _lock_creators(
    session: Session, wanted: Iterable[str | None], previous: Iterable[str | None]
) -> list[LockedUser]:
    """Lock the new and the previous creators of videos, and create the missing ones."""
    keys = [key for key in dict.fromkeys([*wanted, *previous]) if key is not None]
    locked = lock_users(session, keys)
    known = {user.key for user in locked}
    created = [key for key in keys if key not in known]
    get_or_create_ids(session, USERS, created)
    return [*locked, *lock_users(session, created)]


def _since(users: Iterable[LockedUser]) -> dict[int, datetime | None]:
    return {user.id: user.learned_since for user in users}


def _named_hashtags(videos: RowsByKey) -> Iterator[str]:
    """Return the hashtags that rows list, and the hashtags in their captions."""
    for row in videos.values():
        yield from row.get("hashtags", ())
        yield from _hashtags_in(row.get("caption"))


def _hashtags_in(caption: text.Caption | None) -> tuple[str, ...]:
    return caption.hashtags if caption else ()


def _video_columns(
    row: Mapping[str, Any], creators: Mapping[str, int], sounds: Mapping[str, int]
) -> dict[str, Any]:
    """Return the scalar columns of a row, with ids in place of keys."""
    columns = select_columns(row, VIDEO_SCALARS)
    if "creator" in row:
        columns["creator_id"] = creators.get(row["creator"])
    if "sound" in row:
        columns["sound_id"] = sounds.get(row["sound"])
    if "status" in columns:
        columns["status"] = columns["status"] or "published"
    if "audience" in row:
        columns["audience"] = row["audience"] or "public"
    return columns


@dataclass(frozen=True, slots=True)
class _Changes:
    """Hashtags before and after a write, by video key, and the ids of the changed videos."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    changed: set[int]


def _save_captions(session: Session, saved: SavedRows, videos: RowsByKey) -> _Changes:
    """Replace the captions in `videos`, with their words and terms.

    Returns:
        The hashtags in captions before and after, of videos whose caption or hashtags are written.
    """
    to_read = [k for k in saved.before if "caption" in videos[k] or "hashtags" in videos[k]]
    links = read_links(session, CAPTIONS, (saved.ids[key] for key in to_read))
    existing = {row[0]: row for row in links}
    captions: dict[int, text.Caption | None] = {
        saved.ids[key]: row["caption"] for key, row in videos.items() if "caption" in row
    }
    current = [existing[video_id] for video_id in captions if video_id in existing]
    rows = [(video_id, c.text, c.words) for video_id, c in captions.items() if c]
    changed = bulk.synchronise(session, CAPTIONS, current, rows, new=saved.new)
    _save_terms(session, saved, {video_id: captions[video_id] for video_id in changed})
    before, after = {}, {}
    for key in videos:
        row = existing.get(video_id := saved.ids[key])
        before[key] = text.caption_hashtags(row[1]) if row else ()
        is_written = video_id in captions
        after[key] = _hashtags_in(captions[video_id]) if is_written else before[key]
    return _Changes(before, after, changed)


def _save_terms(
    session: Session, saved: SavedRows, captions: Mapping[int, text.Caption | None]
) -> None:
    """Replace the terms of the captions that changed."""
    terms = [(video_id, term) for video_id, c in captions.items() if c for term in c.terms]
    current = read_links(session, VIDEO_TERMS, captions.keys() - saved.new)
    bulk.synchronise(session, VIDEO_TERMS, current, terms, new=saved.new)


def _save_video_hashtags(
    session: Session,
    saved: SavedRows,
    videos: RowsByKey,
    captions: _Changes,
    hashtags: Mapping[str, int],
) -> _Changes:
    """Replace the hashtags of videos, and update their copies of `listed_at`.

    Returns:
        The ids of hashtags before and after, of videos whose hashtags, `listed_at` or creator's
        affinities may change.
    """
    affected = [key for key in videos if _is_affected(saved, key, videos[key])]
    owners = (saved.ids[key] for key in affected if key in saved.before)
    current = read_links(session, VIDEO_HASHTAGS, owners)
    existing: dict[int, list[int]] = {}
    for video_id, hashtag_id, _ in sorted(current):
        existing.setdefault(video_id, []).append(hashtag_id)
    before = {key: existing.get(saved.ids[key], []) for key in affected}
    old = {name for key in affected for name in captions.before[key]}
    old_ids = get_or_create_ids(session, HASHTAGS, sorted(old - hashtags.keys()))
    ids = {**hashtags, **old_ids}
    after = {}
    for key in affected:
        listed = videos[key].get("hashtags")
        after[key] = _hashtags_after(
            before[key],
            None if listed is None else [ids[name] for name in listed],
            [ids[name] for name in captions.before[key]],
            [ids[name] for name in captions.after[key]],
        )
    links: list[lookup.Values] = []
    for key in affected:
        video_id, at = saved.ids[key], _listed_at(saved.after[key])
        links += [(video_id, hashtag_id, at) for hashtag_id in after[key]]
    changed = bulk.synchronise(session, VIDEO_HASHTAGS, current, links, new=saved.new)
    return _Changes(before, after, changed)


def _is_affected(saved: SavedRows, key: str, row: Row) -> bool:
    """Return True if hashtags, their `listed_at` or the creator's affinities may change."""
    if key not in saved.before or "hashtags" in row or "caption" in row:
        return True
    return any(saved.before[key][name] != saved.after[key][name] for name in LEARNED_FROM)


def _hashtags_after(
    current: Sequence[int],
    listed: Sequence[int] | None,
    in_old_caption: Sequence[int],
    in_caption: Sequence[int],
) -> Sequence[int]:
    """Return the ids of a video's hashtags after a write.

    They are the listed hashtags and the hashtags in the caption. Without a list, the current
    hashtags stay, except the hashtags of the old caption.
    """
    if listed is None and in_caption == in_old_caption:
        return current
    others = set(current) - set(in_old_caption) if listed is None else listed
    return list(dict.fromkeys([*others, *in_caption]))[: scalars.LIST_LENGTH]


def _learn_published(
    session: Session, saved: SavedRows, tags: _Changes, since: dict[int, datetime | None]
) -> None:
    """Learn from published videos, as engagements of their creators with hashtags and sound.

    If such an engagement changed, the previous one is taken back.
    """
    creators = {row["creator_id"] for row in saved.before.values()} - {None}
    # Another transaction may have changed the creator of a video before this one locked it.
    since |= _since(lock_user_rows(session, sorted(creators - since.keys())))
    changed = []
    for key in tags.after:
        before = _published(saved.before.get(key), tags.before[key], since)
        after = _published(saved.after[key], tags.after[key], since)
        if before != after:
            changed += [(part, sign) for part, sign in ((before, -1), (after, 1)) if part]
    if any(subjects != Subjects() for (_, subjects, _), _ in changed):
        affinities = AffinityChanges(read_rules(session))
        for (creator_id, subjects, at), sign in changed:
            weight = sign * affinities.rules.publish_weight
            # A time in the future would outweigh everything else the creator did, so it counts
            # as now.
            affinities.add(creator_id, subjects, weight, min(at, scalars.now()))
        affinities.write(session)


def _published(
    video: Mapping[str, Any] | None,
    hashtag_ids: Iterable[int],
    since: Mapping[int, datetime | None],
) -> tuple[int, Subjects, datetime] | None:
    """Return the creator, subjects and time of a published video, or None if it does not count.

    A video without creator or publication time does not count.
    """
    if video is None or video["status"] not in PUBLISHED:
        return None
    creator_id, at = video["creator_id"], video["published_at"]
    if creator_id is None or at is None:
        return None
    subjects = Subjects.of(None, video["sound_id"], tuple(sorted(hashtag_ids)))
    forgotten_until = since[creator_id]
    if forgotten_until is not None and at <= forgotten_until:
        return None
    return creator_id, subjects, at


def _listed_at(video: Row) -> object:
    """Return the time by which hashtags list a video; None unless it is listed for everyone."""
    at = video["published_at"] or scalars.UNDATED
    return at if video["status"] == "published" else None
