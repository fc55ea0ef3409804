"""The write side of the catalogue: users, videos, and who follows whom.

Rows are mappings with the columns of the interchange format: an absent column keeps its value, None
clears it, a list replaces. A video also has the hashtags that its caption has. Catalogue tables are
written before those of one user's data, in one order: users, sounds, hashtags, videos.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender.database import bulk, lookup
from recommender.errors import UnknownVideo
from recommender.formats import scalars, text
from recommender.formats.rows import VIDEO_COLUMNS, parse_row
from recommender.formats.scalars import LIST_LENGTH, STATUSES, now, one_of, parse_named, shown
from recommender.ingest.upserts import (
    VIDEO_SCALARS,
    Row,
    SavedRows,
    get_or_create_ids,
    merge_rows,
    read_links,
    save_rows,
    select_columns,
)
from recommender.ingest.users import lock_learned_since
from recommender.ingest.values import Applied, Counts
from recommender.learning.affinities import AffinityChanges, Subjects, read_rules
from recommender.models import (
    User,
    Video,
)
from recommender.models.tables import (
    CAPTIONS,
    HASHTAGS,
    SOUNDS,
    USERS,
    VIDEO_HASHTAGS,
    VIDEO_TERMS,
    VIDEOS,
)

LEARNED_FROM = ("creator_id", "sound_id", "status", "published_at")
"""The columns of a video that its creator's interests depend on."""


def upsert_videos(session: Session, rows: Iterable[Row]) -> Counts:
    """Create or update videos; creators, sounds and hashtags are created on sight.

    Args:
        session: the caller's transaction; nothing is committed.
        rows: mappings of `id`, `creator`, `published_at` (required), `caption`, `hashtags`,
            `sound`, `language`, `country`, `duration_ms` (milliseconds), `orientation`, `status`.
            Of two rows of one id the later counts, column by column. The hashtags written in the
            caption are added to those given, up to 300 in all; where a caption is given without
            hashtags, they replace those that were written in the caption before.

    Returns:
        How many videos were inserted, updated, unchanged.

    Raises:
        InvalidValue: a row is not of that form; nothing is written.
    """
    parsed = [parse_row(VIDEO_COLUMNS, row) for row in rows]
    return apply_videos(session, parsed).counts


def apply_videos(session: Session, rows: Sequence[Row]) -> Applied:
    """Write video rows as `rows.parse_row` gives them; see `upsert_videos`."""
    given = merge_rows(rows)
    creators = get_or_create_ids(session, USERS, (str(row["creator"]) for row in given.values()))
    since = lock_learned_since(session, USERS.c.key, creators)
    sounds = get_or_create_ids(
        session, SOUNDS, (str(r["sound"]) for r in given.values() if r.get("sound"))
    )
    hashtags = get_or_create_ids(session, HASHTAGS, _named_hashtags(given))
    scalars = {key: _video_scalars(row, creators, sounds) for key, row in given.items()}
    saved = save_rows(session, VIDEOS, scalars, {"status": "published"})
    captions = _save_captions(session, saved, given)
    tags = _save_video_hashtags(session, saved, given, captions, hashtags)
    _learn_published(session, saved, tags, since)
    return Applied(saved.counts(captions.changed | tags.changed))


def set_video_status(session: Session, video: str, status: str) -> bool:
    """Publish a video, put it under review or remove it; a removed one can come back.

    Args:
        session: the caller's transaction; nothing is committed.
        video: the video's key.
        status: one of `scalars.STATUSES`.

    Returns:
        Whether the video had another status before.

    Raises:
        InvalidValue: the key or the status is not of its form.
        UnknownVideo: there is no such video.
    """
    row = {
        "id": parse_named("video", scalars.key, video),
        "status": parse_named("status", one_of(STATUSES), status),
    }
    creator = sa.select(User.key).join(Video).where(Video.key == video)
    creator = creator.with_for_update(read=True, key_share=True, of=User)
    if (found := session.scalar(creator)) is None:
        raise UnknownVideo(f"there is no video {shown(video)}")
    return bool(apply_videos(session, [{**row, "creator": found}]).counts.updated)


def _named_hashtags(given: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The hashtags that rows name, those that their captions have included."""
    for row in given.values():
        yield from row.get("hashtags", ())
        yield from _written(row.get("caption"))


def _written(caption: text.Caption | None) -> tuple[str, ...]:
    return caption.hashtags if caption else ()


def _video_scalars(
    row: Row, creators: Mapping[str, int], sounds: Mapping[str, int]
) -> dict[str, Any]:
    scalars = select_columns(row, VIDEO_SCALARS)
    scalars["creator_id"] = creators[str(row["creator"])]
    if "sound" in row:
        scalars["sound_id"] = sounds.get(str(row["sound"]))
    if "status" in scalars:
        scalars["status"] = scalars["status"] or "published"
    return scalars


@dataclass(frozen=True, slots=True)
class _Changes:
    """Something of videos after it was saved: before and after by their keys, and what changed."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    changed: set[int]


def _save_captions(
    session: Session, saved: SavedRows, given: Mapping[str, Mapping[str, Any]]
) -> _Changes:
    """Replace the captions that are given, with their words and terms.

    Returns:
        The hashtags written in captions before and after: also in those of the videos whose
        hashtags are given.
    """
    read = [k for k in saved.before if "caption" in given[k] or "hashtags" in given[k]]
    found = {row[0]: row for row in read_links(session, CAPTIONS, (saved.ids[key] for key in read))}
    owners: dict[int, text.Caption | None] = {
        saved.ids[key]: row["caption"] for key, row in given.items() if "caption" in row
    }
    current = [found[owner] for owner in owners if owner in found]
    wanted = [(owner, each.text, each.words) for owner, each in owners.items() if each]
    changed = bulk.synchronise(session, CAPTIONS, current, wanted, new=saved.new)
    _save_terms(session, saved, {owner: owners[owner] for owner in changed})
    rows = {key: saved.ids[key] for key in given}
    before = {
        key: text.caption_hashtags(found[row][1]) if row in found else ()
        for key, row in rows.items()
    }
    after = {
        key: _written(owners[row]) if row in owners else before[key] for key, row in rows.items()
    }
    return _Changes(before, after, changed)


def _save_terms(
    session: Session, saved: SavedRows, captions: Mapping[int, text.Caption | None]
) -> None:
    """Replace the terms of the captions that changed."""
    wanted = [(owner, term) for owner, each in captions.items() if each for term in each.terms]
    there = read_links(session, VIDEO_TERMS, captions.keys() - saved.new)
    bulk.synchronise(session, VIDEO_TERMS, there, wanted, new=saved.new)


def _save_video_hashtags(
    session: Session,
    saved: SavedRows,
    given: Mapping[str, Mapping[str, Any]],
    captions: _Changes,
    hashtags: Mapping[str, int],
) -> _Changes:
    """Replace the hashtags that are given or written, and keep every `listed_at`.

    The hashtags before and after are those of the videos of which anything changed that a
    hashtag's row or their creator's interests depend on.
    """
    touched = [key for key in given if _is_touched(saved, key, given[key])]
    there = (saved.ids[key] for key in touched if key in saved.before)
    current = read_links(session, VIDEO_HASHTAGS, there)
    kept: dict[int, list[int]] = {}
    for video_id, hashtag_id, _ in sorted(current):
        kept.setdefault(video_id, []).append(hashtag_id)
    before = {key: kept.get(saved.ids[key], []) for key in touched}
    old = {name for key in touched for name in captions.before[key]}
    known = {**hashtags, **get_or_create_ids(session, HASHTAGS, sorted(old - hashtags.keys()))}
    after = {}
    for key in touched:
        captioned = [
            [known[name] for name in each[key]] for each in (captions.before, captions.after)
        ]
        tags = given[key].get("hashtags")
        named = None if tags is None else [known[name] for name in tags]
        after[key] = _hashtags_after(before[key], named, *captioned)
    wanted: list[lookup.Values] = []
    for key in touched:
        video_id, at = saved.ids[key], _listed_at(saved.after[key])
        wanted += [(video_id, hashtag_id, at) for hashtag_id in after[key]]
    changed = bulk.synchronise(session, VIDEO_HASHTAGS, current, wanted, new=saved.new)
    return _Changes(before, after, changed)


def _is_touched(saved: SavedRows, key: str, row: Row) -> bool:
    """Whether a video's hashtags, their `listed_at` or its creator's interests may change."""
    if key not in saved.before or "hashtags" in row or "caption" in row:
        return True
    return any(saved.before[key][name] != saved.after[key][name] for name in LEARNED_FROM)


def _hashtags_after(
    current: Sequence[int],
    named: Sequence[int] | None,
    written_before: Sequence[int],
    written: Sequence[int],
) -> Sequence[int]:
    """The hashtags of a video: those named, else those it had, and those written in its caption."""
    if named is None and written == written_before:
        return current
    others = set(current) - set(written_before) if named is None else named
    return list(dict.fromkeys([*others, *written]))[:LIST_LENGTH]


def _learn_published(
    session: Session, saved: SavedRows, tags: _Changes, since: dict[int, datetime | None]
) -> None:
    """Count each published video as an engagement of its creator with its hashtags and sound.

    Where that changed, what it counted before is taken back. What is published later counts as of
    now: growing until then would drown all that the creator did.
    """
    creators = {row["creator_id"] for row in saved.before.values()}
    since |= lock_learned_since(session, USERS.c.id, sorted(creators - since.keys()))
    changed = []
    for key in tags.after:
        before = _published(saved.before.get(key), tags.before[key], since)
        after = _published(saved.after[key], tags.after[key], since)
        if before != after:
            changed += [(part, sign) for part, sign in ((before, -1), (after, 1)) if part]
    if any(subjects != Subjects() for (_, subjects, _), _ in changed):
        learned = AffinityChanges(read_rules(session))
        for (creator_id, subjects, at), sign in changed:
            weight = sign * learned.rules.publish_weight
            learned.add(creator_id, subjects, weight, min(at, now()))
        learned.write(session)


def _published(
    video: Mapping[str, Any] | None,
    hashtag_ids: Iterable[int],
    since: Mapping[int, datetime | None],
) -> tuple[int, Subjects, datetime] | None:
    """What a video says of its creator's interests, and when; None where it says nothing."""
    if video is None or video["status"] != "published":
        return None
    subjects = Subjects.of(None, video["sound_id"], tuple(sorted(hashtag_ids)))
    creator_id, at = video["creator_id"], video["published_at"]
    forgotten_until = since[creator_id]
    if forgotten_until is not None and at <= forgotten_until:
        return None
    return creator_id, subjects, at


def _listed_at(video: Row) -> object:
    return video["published_at"] if video["status"] == "published" else None
