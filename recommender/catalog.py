"""The write side of the catalogue: users, videos, and who follows whom.

Rows are mappings with the columns of the interchange format: an absent column keeps its value, None
clears it, a list replaces. A video also has the hashtags that its caption has. Catalogue tables are
written before those of one user's data, in one order: users, sounds, hashtags, videos.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.orm import Session

from recommender import bulk, fields
from recommender.errors import InvalidValue, RecommenderError, UnknownUser, UnknownVideo
from recommender.learning import Learned, Subjects, rules
from recommender.models import (
    Follow,
    Hashtag,
    Sound,
    User,
    UserHashtag,
    UserSound,
    Video,
    VideoCaption,
    VideoHashtag,
    VideoTerm,
)
from recommender.values import Counts

Row = Mapping[str, object]

USERS: Table = User.__table__  # type: ignore[assignment] # SQLAlchemy types it as FromClause
SOUNDS: Table = Sound.__table__  # type: ignore[assignment]
HASHTAGS: Table = Hashtag.__table__  # type: ignore[assignment]
VIDEOS: Table = Video.__table__  # type: ignore[assignment]
CAPTIONS: Table = VideoCaption.__table__  # type: ignore[assignment]
VIDEO_TERMS: Table = VideoTerm.__table__  # type: ignore[assignment]
VIDEO_HASHTAGS: Table = VideoHashtag.__table__  # type: ignore[assignment]
USER_HASHTAGS: Table = UserHashtag.__table__  # type: ignore[assignment]
USER_SOUNDS: Table = UserSound.__table__  # type: ignore[assignment]
FOLLOWS: Table = Follow.__table__  # type: ignore[assignment]

USER_SCALARS = ("language", "country", "device", "created_at")
VIDEO_SCALARS = (
    "creator_id", "sound_id", "language", "country", "duration_ms", "orientation", "status",
    "published_at",
)  # fmt: skip
LEARNED_FROM = ("creator_id", "sound_id", "status", "published_at")
"""The columns of a video that its creator's interests depend on."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a write of many rows did, and which rows, by their place, it had to leave out."""

    counts: Counts
    rejected: Mapping[int, RecommenderError] = field(default_factory=dict)


def ids(
    session: Session, table: Table, names: Iterable[str], *, hold: bool = False
) -> dict[str, int]:
    """The ids of those keys (of hashtags: names) that are there; `hold` as in `bulk.find`."""
    column = table.c[_key_column(table)]
    wanted = [(name,) for name in dict.fromkeys(names)]
    if not wanted:
        return {}
    found = bulk.find(session, [column], wanted, [column, table.c.id], hold=hold)
    return {name: row_id for name, row_id in found}  # noqa: C416 - a Row is not a pair to mypy


def _key_column(table: Table) -> str:
    return "name" if table is HASHTAGS else "key"


def ensure(session: Session, table: Table, names: Iterable[str]) -> dict[str, int]:
    """The ids of keys (of hashtags: names), created on sight in the order given.

    The erasure of a user among them waits until the transaction has ended.
    """
    wanted = list(dict.fromkeys(names))
    hold = table is USERS
    found = ids(session, table, wanted, hold=hold)
    found |= _insert_new(session, table, {name: {} for name in wanted if name not in found})
    return found | ids(session, table, [name for name in wanted if name not in found], hold=hold)


def upsert_users(session: Session, rows: Iterable[Row]) -> Counts:
    """Create or update users; their interests and liked sounds are created on sight.

    Args:
        session: the caller's transaction; nothing is committed.
        rows: mappings of `id` (required), `language`, `country`, `device`, `created_at`,
            `interests`, `liked_sounds`. Of two rows of one id the later counts, column by column.

    Returns:
        How many users were inserted, updated, unchanged.

    Raises:
        InvalidValue: a row is not of that form; nothing is written.
    """
    return apply_users(session, [fields.parse_row(fields.USER_COLUMNS, row) for row in rows]).counts


def apply_users(session: Session, rows: Sequence[Row]) -> Applied:
    """Write user rows as `fields.parse_row` gives them; see `upsert_users`."""
    given = _merged(rows)
    scalars = {key: _only(row, USER_SCALARS) for key, row in given.items()}
    saved = _save(session, USERS, scalars, {})
    sounds = ensure(session, SOUNDS, _members(given, "liked_sounds"))
    hashtags = ensure(session, HASHTAGS, _members(given, "interests"))
    changed = _replace_links(session, USER_HASHTAGS, saved, given, "interests", hashtags)
    changed |= _replace_links(session, USER_SOUNDS, saved, given, "liked_sounds", sounds)
    return Applied(saved.counts(changed))


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
    parsed = [fields.parse_row(fields.VIDEO_COLUMNS, row) for row in rows]
    return apply_videos(session, parsed).counts


def apply_videos(session: Session, rows: Sequence[Row]) -> Applied:
    """Write video rows as `fields.parse_row` gives them; see `upsert_videos`."""
    given = _merged(rows)
    creators = ensure(session, USERS, (str(row["creator"]) for row in given.values()))
    since = _learned_since(session, USERS.c.key, creators)
    sounds = ensure(session, SOUNDS, (str(r["sound"]) for r in given.values() if r.get("sound")))
    hashtags = ensure(session, HASHTAGS, _named_hashtags(given))
    scalars = {key: _video_scalars(row, creators, sounds) for key, row in given.items()}
    saved = _save(session, VIDEOS, scalars, {"status": "published"})
    captions = _save_captions(session, saved, given)
    tags = _save_video_hashtags(session, saved, given, captions, hashtags)
    _learn_published(session, saved, tags, since)
    return Applied(saved.counts(captions.changed | tags.changed))


def set_video_status(session: Session, video: str, status: str) -> bool:
    """Publish a video, put it under review or remove it; a removed one can come back.

    Args:
        session: the caller's transaction; nothing is committed.
        video: the video's key.
        status: one of `fields.STATUSES`.

    Returns:
        Whether the video had another status before.

    Raises:
        InvalidValue: the key or the status is not of its form.
        UnknownVideo: there is no such video.
    """
    row = {"id": _key("video", video), "status": _status(status)}
    creator = sa.select(User.key).join(Video).where(Video.key == video)
    creator = creator.with_for_update(read=True, key_share=True, of=User)
    if (found := session.scalar(creator)) is None:
        raise UnknownVideo(f"there is no video {fields.shown(video)}")
    return bool(apply_videos(session, [{**row, "creator": found}]).counts.updated)


def _status(status: str) -> object:
    try:
        return fields.one_of(fields.STATUSES)(status)
    except InvalidValue as error:
        raise InvalidValue(f"status: {error}") from None


def _merged(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    merged: dict[str, dict[str, Any]] = {}
    for row in rows:
        merged.setdefault(str(row["id"]), {}).update(row)
    return merged


def _only(row: Row, names: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}


def _members(given: Mapping[str, Mapping[str, Any]], column: str) -> Iterator[str]:
    return (member for row in given.values() for member in row.get(column, ()))


def _named_hashtags(given: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The hashtags that rows name, those that their captions have included."""
    for row in given.values():
        yield from row.get("hashtags", ())
        yield from _written(row.get("caption"))


def _written(caption: fields.Caption | None) -> tuple[str, ...]:
    return caption.hashtags if caption else ()


def _learned_since(
    session: Session, column: sa.Column[Any], users: Iterable[object]
) -> dict[int, datetime | None]:
    """Since when what users do counts, by their ids; their rows are locked, so that a reset waits.

    Before everything else, since users are the first to be written in every transaction.
    """
    wanted = [(user,) for user in users]
    if not wanted:
        return {}
    read = [USERS.c.id, USERS.c.learned_since]
    return {
        row.id: row.learned_since for row in bulk.find(session, [column], wanted, read, lock=True)
    }


def _video_scalars(
    row: Row, creators: Mapping[str, int], sounds: Mapping[str, int]
) -> dict[str, Any]:
    scalars = _only(row, VIDEO_SCALARS)
    scalars["creator_id"] = creators[str(row["creator"])]
    if "sound" in row:
        scalars["sound_id"] = sounds.get(str(row["sound"]))
    if "status" in scalars:
        scalars["status"] = scalars["status"] or "published"
    return scalars


@dataclass(frozen=True, slots=True)
class _Saved:
    """Rows after `_save`: their ids, their scalars before and after, and what changed.

    No other transaction knows yet of the ids of those that are new.
    """

    ids: Mapping[str, int]
    new: frozenset[int]
    before: Mapping[str, Mapping[str, Any]]
    after: Mapping[str, Mapping[str, Any]]

    def counts(self, owners: set[int]) -> Counts:
        """The counts, where these rows also changed in other tables."""
        changed = {key for key in self.before if self.before[key] != self.after[key]}
        changed |= {key for key in self.before if self.ids[key] in owners}
        inserted = len(self.after) - len(self.before)
        return Counts(inserted, len(changed), len(self.before) - len(changed))


def _save(session: Session, table: Table, rows: Mapping[str, Row], defaults: Row) -> _Saved:
    """Insert or update rows of a catalogue table by key; only the columns given change."""
    names = USER_SCALARS if table is USERS else VIDEO_SCALARS
    empty = {**dict.fromkeys(names), **defaults}
    found = _locked(session, table, list(rows), names)
    new = {key: {**empty, **row} for key, row in rows.items() if key not in found}
    inserted = _insert_new(session, table, new)
    found |= _locked(session, table, [key for key in new if key not in inserted], names)
    row_ids = inserted | {key: row_id for key, (row_id, _) in found.items()}
    before = {key: row for key, (_, row) in found.items()}
    after = {key: {**before.get(key, empty), **row} for key, row in rows.items()}
    for given in dict.fromkeys(tuple(row) for row in rows.values()):
        changed = sorted(k for k in before if tuple(rows[k]) == given and before[k] != after[k])
        written = [{"id": row_ids[k], "key": k, **after[k]} for k in changed]
        merge = dict.fromkeys(given, bulk.replace)
        bulk.insert(session, table, written, conflict=["key"], merge=merge)
    return _Saved(row_ids, frozenset(inserted.values()), before, after)


def _insert_new(session: Session, table: Table, rows: Mapping[str, Row]) -> dict[str, int]:
    """Insert rows by key; the ids of those that no other transaction inserted meanwhile."""
    if not rows:
        return {}
    column = _key_column(table)
    reserved = dict(zip(rows, bulk.reserve_ids(session, table, len(rows)), strict=True))
    written = [{"id": reserved[key], column: key, **rows[key]} for key in sorted(rows)]
    if bulk.insert(session, table, written, conflict=[column]) == len(rows):
        return reserved
    there = ids(session, table, rows)
    return {key: row_id for key, row_id in there.items() if row_id == reserved[key]}


def _locked(
    session: Session, table: Table, keys: Sequence[str], names: Sequence[str]
) -> dict[str, tuple[int, dict[str, Any]]]:
    if not keys:
        return {}
    columns = [table.c[name] for name in names]
    wanted = [(key,) for key in keys]
    read = [table.c.key, table.c.id, *columns]
    return {
        row.key: (row.id, {name: getattr(row, name) for name in names})
        for row in bulk.find(session, [table.c.key], wanted, read, lock=True)
    }


def _replace_links(
    session: Session,
    table: Table,
    saved: _Saved,
    given: Mapping[str, Mapping[str, Any]],
    column: str,
    member_ids: Mapping[str, int],
) -> set[int]:
    owners = {saved.ids[key]: row[column] for key, row in given.items() if column in row}
    wanted = [(owner, member_ids[each]) for owner, members in owners.items() for each in members]
    return bulk.synchronise(session, table, _links(session, table, owners), wanted)


def _links(session: Session, table: Table, owners: Iterable[int]) -> list[bulk.Values]:
    """The rows of a table whose first column, their owner, is one of the owners."""
    wanted = [(owner,) for owner in owners]
    if not wanted:
        return []
    columns = list(table.c)
    return [tuple(row) for row in bulk.find(session, columns[:1], wanted, columns)]


@dataclass(frozen=True, slots=True)
class _Changes:
    """Something of videos after it was saved: before and after by their keys, and what changed."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    changed: set[int]


def _save_captions(
    session: Session, saved: _Saved, given: Mapping[str, Mapping[str, Any]]
) -> _Changes:
    """Replace the captions that are given, with their words and terms.

    Returns:
        The hashtags written in captions before and after: also in those of the videos whose
        hashtags are given.
    """
    read = [k for k in saved.before if "caption" in given[k] or "hashtags" in given[k]]
    found = {row[0]: row for row in _links(session, CAPTIONS, (saved.ids[key] for key in read))}
    owners: dict[int, fields.Caption | None] = {
        saved.ids[key]: row["caption"] for key, row in given.items() if "caption" in row
    }
    current = [found[owner] for owner in owners if owner in found]
    wanted = [(owner, each.text, each.words) for owner, each in owners.items() if each]
    changed = bulk.synchronise(session, CAPTIONS, current, wanted, new=saved.new)
    _save_terms(session, saved, {owner: owners[owner] for owner in changed})
    rows = {key: saved.ids[key] for key in given}
    before = {
        key: fields.caption_hashtags(found[row][1]) if row in found else ()
        for key, row in rows.items()
    }
    after = {
        key: _written(owners[row]) if row in owners else before[key] for key, row in rows.items()
    }
    return _Changes(before, after, changed)


def _save_terms(
    session: Session, saved: _Saved, captions: Mapping[int, fields.Caption | None]
) -> None:
    """Replace the terms of the captions that changed."""
    wanted = [(owner, term) for owner, each in captions.items() if each for term in each.terms]
    there = _links(session, VIDEO_TERMS, captions.keys() - saved.new)
    bulk.synchronise(session, VIDEO_TERMS, there, wanted, new=saved.new)


def _save_video_hashtags(
    session: Session,
    saved: _Saved,
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
    current = _links(session, VIDEO_HASHTAGS, there)
    kept: dict[int, list[int]] = {}
    for video_id, hashtag_id, _ in sorted(current):
        kept.setdefault(video_id, []).append(hashtag_id)
    before = {key: kept.get(saved.ids[key], []) for key in touched}
    old = {name for key in touched for name in captions.before[key]}
    known = {**hashtags, **ensure(session, HASHTAGS, sorted(old - hashtags.keys()))}
    after = {}
    for key in touched:
        captioned = [
            [known[name] for name in each[key]] for each in (captions.before, captions.after)
        ]
        tags = given[key].get("hashtags")
        named = None if tags is None else [known[name] for name in tags]
        after[key] = _hashtags_after(before[key], named, *captioned)
    wanted: list[bulk.Values] = []
    for key in touched:
        video_id, at = saved.ids[key], _listed_at(saved.after[key])
        wanted += [(video_id, hashtag_id, at) for hashtag_id in after[key]]
    changed = bulk.synchronise(session, VIDEO_HASHTAGS, current, wanted, new=saved.new)
    return _Changes(before, after, changed)


def _is_touched(saved: _Saved, key: str, row: Row) -> bool:
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
    return list(dict.fromkeys([*others, *written]))[: fields.LIST_LENGTH]


def _learn_published(
    session: Session, saved: _Saved, tags: _Changes, since: dict[int, datetime | None]
) -> None:
    """Count each published video as an engagement of its creator with its hashtags and sound.

    Where that changed, what it counted before is taken back. What is published later counts as of
    now: growing until then would drown all that the creator did.
    """
    creators = {row["creator_id"] for row in saved.before.values()}
    since |= _learned_since(session, USERS.c.id, sorted(creators - since.keys()))
    changed = []
    for key in tags.after:
        before = _published(saved.before.get(key), tags.before[key], since)
        after = _published(saved.after[key], tags.after[key], since)
        if before != after:
            changed += [(part, sign) for part, sign in ((before, -1), (after, 1)) if part]
    if any(subjects != Subjects() for (_, subjects, _), _ in changed):
        learned = Learned(rules(session))
        for (creator_id, subjects, at), sign in changed:
            weight = sign * learned.rules.publish_weight
            learned.add(creator_id, subjects, weight, min(at, fields.now()))
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


def apply_follows(session: Session, rows: Sequence[Row]) -> Applied:
    """Write parsed follow rows; those of unknown users are left out and reported.

    Args:
        session: the caller's transaction; nothing is committed.
        rows: mappings of `user`, `creator` and, where known, `at`, as `fields.parse_row` gives.
    """
    users = ids(session, USERS, (str(row["user"]) for row in rows), hold=True)
    known = [row for row in rows if row["user"] in users]
    creators = ensure(session, USERS, (str(row["creator"]) for row in known))
    wanted: dict[bulk.Key, Row] = {}
    for row in known:
        pair = (users[str(row["user"])], creators[str(row["creator"])])
        wanted[pair] = {**wanted.get(pair, {}), **row}
    current = _follows(session, list(wanted))
    there = [(*pair, at) for pair, at in current.items()]
    written = [(*pair, row.get("at", current.get(pair))) for pair, row in wanted.items()]
    changed = set(written) - set(there)
    bulk.synchronise(session, FOLLOWS, there, written)
    inserted = len(wanted.keys() - current.keys())
    counts = Counts(inserted, len(changed) - inserted, len(known) - len(changed))
    rejected = {
        index: UnknownUser(f"user: there is no user {fields.shown(row['user'])}")
        for index, row in enumerate(rows)
        if row["user"] not in users
    }
    return Applied(counts, rejected)


def _follows(session: Session, pairs: Sequence[bulk.Key]) -> dict[bulk.Key, datetime | None]:
    """Since when those of the pairs of user and creator are that are there."""
    if not pairs:
        return {}
    columns = [FOLLOWS.c.user_id, FOLLOWS.c.creator_id]
    rows = bulk.find(session, columns, pairs, [*columns, FOLLOWS.c.created_at])
    return {(user, creator): at for user, creator, at in rows}


def user_id(session: Session, user: str, *, hold: bool = False) -> int:
    """The id of a user's row.

    Args:
        session: the caller's transaction.
        user: the user's key.
        hold: whether an erasure of the user waits until the transaction has ended.

    Raises:
        UnknownUser: there is no such user.
    """
    statement = sa.select(User.id).where(User.key == _key("user", user))
    if hold:
        statement = statement.with_for_update(read=True, key_share=True)
    found = session.scalar(statement)
    if found is None:
        raise UnknownUser(f"there is no user {fields.shown(user)}")
    return found


def _key(name: str, value: str) -> str:
    try:
        return fields.key(value)
    except InvalidValue as error:
        raise InvalidValue(f"{name}: {error}") from None


def follow(session: Session, user: str, creator: str, *, at: datetime | None = None) -> bool:
    """Let a user follow a creator, who is created on sight; following again changes nothing.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the follower's key.
        creator: the creator's key.
        at: since when, with an offset; now where None.

    Returns:
        Whether the user did not follow the creator before.

    Raises:
        UnknownUser: there is no such follower.
        InvalidValue: a key or the time is not of its form.
    """
    since = fields.time(fields.now() if at is None else at)
    follower = user_id(session, user, hold=True)
    creator_id = ensure(session, USERS, [_key("creator", creator)])[creator]
    row: bulk.Columns = {"user_id": [follower], "creator_id": [creator_id], "created_at": [since]}
    if _follows(session, [(follower, creator_id)]):
        return False
    return bool(bulk.insert_new(session, FOLLOWS, row))


def unfollow(session: Session, user: str, creator: str) -> bool:
    """Let a user no longer follow a creator.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the follower's key.
        creator: the creator's key, known or not.

    Returns:
        Whether the user followed the creator before.

    Raises:
        UnknownUser: there is no such follower.
        InvalidValue: a key is not of its form.
    """
    follower = user_id(session, user)
    followed = sa.select(User.id).where(User.key == _key("creator", creator)).scalar_subquery()
    statement = sa.delete(Follow).where(Follow.user_id == follower, Follow.creator_id == followed)
    return bool(session.execute(statement).rowcount)  # type: ignore[attr-defined] # a CursorResult
