"""Feeds with names: their sources, formats, profile, memory and limits, kept in the database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE
from sqlalchemy.orm import aliased

from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.database.schema import check_first_rows
from recommender.database.session import Session
from recommender.errors import InvalidValue, UnknownFeed
from recommender.formats import scalars
from recommender.models import FeedVersion, ProfileVersion
from recommender.models.serving import FOR_YOU_MEMORY
from recommender.ranking.profiles import NAME, WantedProfile, get_profile, lock_versions
from recommender.ranking.registration import MAX_QUOTA
from recommender.ranking.registry import Registry, hint_of, known_registry
from recommender.ranking.request import FEED_MEMORIES, LARGEST_SPAN, PEOPLE, Feed, FeedMemory
from recommender.settings import MOST_CANDIDATES

MAX_FORMATS = 10

MAX_MEMORIES = 2**15 - 1
"""The largest number of names of feeds with their own memory: its numbers are SMALLINT."""

LIMITED = ("creator", "sound", "format")
"""The subjects that a feed can limit."""


def create_feed(
    session: Session,
    name: str,
    *,
    profile: str | None = None,
    sources: Iterable[str] | Mapping[str, int] = (),
    formats: Iterable[str] = (),
    memory: FeedMemory = "shared",
    limits: Mapping[str, tuple[int, int]] | None = None,
) -> Feed:
    """Create a version of a feed; sessions that begin from now on have it.

    Versions never change: other properties are a new version. A session keeps its version.

    Args:
        session: the caller's transaction; nothing is committed.
        name: a letter, then letters, digits and ``_ . -``, at most 100 in all.
        profile: ``name`` for the newest version of a profile at each page, or ``name@version``;
            None for the active one. Not ``classic``, which has neither sources nor limits.
        sources: the names of its sources with their own quotas, or the quotas by name, each 0 to
            1,000, 7,200 in all; empty for all sources. A quota that is given is not scaled by the
            setting `candidates`. Without ``newest`` a page is short if the others find no more.
        formats: the formats of its videos, 10 at most; empty for all.
        memory: ``own`` if what it shows uses up nothing in other feeds, and the other way around.
        limits: for ``creator``, ``sound`` or ``format``: the largest number of videos of one of
            them in a number of consecutive places, and that number, 2 to 50. ``(2, 10)`` is at most
            two in any ten places.

    Raises:
        InvalidValue: a value is malformed, there is no such source, or 32,767 names have a memory
            of their own, names of deleted feeds included.
        UnknownProfile: there is no such profile.
    """
    _check_name(name)
    wanted = WantedProfile() if profile is None else _checked_profile(session, profile)
    checked_sources = _checked_sources(sources, known_registry(lookup.registry(session)))
    named_formats, checked_limits = checked_formats(formats), _checked_limits(limits or {})
    if memory not in FEED_MEMORIES:
        raise InvalidValue(f"memory: {scalars.shown(memory)} is neither shared nor own")
    lock_versions(session)
    last = sa.select(sa.func.max(FeedVersion.version)).where(FeedVersion.name == name)
    row = FeedVersion(
        name=name,
        version=(session.scalar(last) or 0) + 1,
        created_at=scalars.now(),
        profile=wanted.name,
        profile_version=wanted.version,
        memory=FOR_YOU_MEMORY if memory == "shared" else _own_memory(session, name),
        sources=checked_sources,
        formats=list(named_formats),
        limits={subject: list(limit) for subject, limit in checked_limits.items()},
    )
    session.add(row)
    session.flush()
    return feed_of(row)


def _own_memory(session: Session, name: str) -> int:
    """Return the memory number of a feed name: an earlier version's, or the next free one."""
    before = sa.select(sa.func.max(FeedVersion.memory)).where(FeedVersion.name == name)
    last = sa.select(sa.func.coalesce(sa.func.max(FeedVersion.memory), FOR_YOU_MEMORY))
    number = session.scalar(before) or session.scalars(last).one() + 1
    if number > MAX_MEMORIES:
        raise InvalidValue(f"memory: {MAX_MEMORIES:,} feeds have their own, choose shared")
    return number


def list_feeds(session: Session) -> list[Feed]:
    """Return every version of every feed, by name and version.

    Args:
        session: the caller's transaction.

    Raises:
        SchemaOutOfDate: no migration made the tables.
    """
    query = every_feed().prefix_with(_COMMENT)
    feeds = [feed_of(row) for row in session.execute(query)]
    if not feeds:
        check_first_rows(session)
    return feeds


def get_feed(session: Session, name: str) -> Feed:
    """Return the newest version of a feed, with which sessions begin.

    Args:
        session: the caller's transaction.
        name: the name of the feed.

    Raises:
        UnknownFeed: there is no such feed, or it was deleted.
    """
    query = every_feed().where(FeedVersion.id == newest_feed_id()).prefix_with(_COMMENT)
    row = session.execute(query, {"feed": checked_feed_name(name)}).one_or_none()
    if row is None:
        check_first_rows(session)
        raise _unknown(name)
    return feed_of(row)


def delete_feed(session: Session, name: str) -> Feed:
    """Delete a feed: it begins no sessions any more. Sessions that have begun go on.

    A feed that is created again under its name has the same memory.

    Args:
        session: the caller's transaction; nothing is committed.
        name: the name of the feed.

    Returns:
        The last version.

    Raises:
        UnknownFeed: there is no such feed, or it was deleted.
    """
    lock_versions(session)
    last, now = get_feed(session, name), scalars.now()
    is_left = FeedVersion.name == name, FeedVersion.deleted_at.is_(None)
    session.execute(sa.update(FeedVersion).where(*is_left).values(deleted_at=now))
    return replace(last, deleted_at=now)


_COMMENT = "/* recommender.feeds */"


def every_feed() -> Statement:
    """Return the query of every version of every feed; `feed_of` reads a row."""
    statement: Statement = sa.select(*(getattr(FeedVersion, name) for name in _COLUMNS))
    return statement.order_by(FeedVersion.name, FeedVersion.version)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidValue(
            f"feed: {scalars.shown(name)} is not a letter followed by letters, digits, _ . or -"
        )


def _checked_profile(session: Session, profile: str) -> WantedProfile:
    wanted = get_profile(session, profile)
    if wanted.name == PEOPLE:
        raise InvalidValue(f"profile: {profile} ranks people, not videos: choose another one")
    if wanted.is_reference:
        raise InvalidValue(f"profile: {profile} has neither sources nor limits: choose another one")
    return WantedProfile.of(profile)


def _checked_sources(
    sources: Iterable[str] | Mapping[str, int], registry: Registry
) -> dict[str, int | None]:
    """Return the quotas by source; None keeps the default quota."""
    if isinstance(sources, str) or not isinstance(sources, Iterable):
        raise InvalidValue(f"sources: {scalars.shown(sources)} is no list of sources")
    quotas: dict[str, int | None] = (
        dict(sources) if isinstance(sources, Mapping) else dict.fromkeys(sources)
    )
    own = {source.name: source.quota for source in registry.every_source}
    for name, quota in quotas.items():
        if name not in own:
            raise _no_source(name, registry)
        is_number = isinstance(quota, int) and not isinstance(quota, bool)
        if isinstance(sources, Mapping) and not (is_number and 0 <= (quota or 0) <= MAX_QUOTA):
            raise InvalidValue(
                f"sources: the quota of {name} is {scalars.shown(quota)}, not 0 to {MAX_QUOTA:,}"
            )
    total = sum(own[name] if quota is None else quota for name, quota in quotas.items())
    if quotas and not 1 <= total <= MOST_CANDIDATES:
        raise InvalidValue(f"sources: the quotas add up to {total:,}, not 1 to {MOST_CANDIDATES:,}")
    return quotas


def _no_source(name: object, registry: Registry) -> InvalidValue:
    known = ", ".join(source.name for source in registry.every_source)
    hint = hint_of(name, registry.sources)
    return InvalidValue(
        f"sources: there is no source {scalars.shown(name)}: there are {known}{hint}"
    )


def checked_formats(formats: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct formats that are wanted; `InvalidValue` for more than 10."""
    if isinstance(formats, str) or not isinstance(formats, Iterable):
        raise InvalidValue(f"formats: {scalars.shown(formats)} is no list of formats")
    words = dict.fromkeys(scalars.parse_named("formats", scalars.label, name) for name in formats)
    if len(words) > MAX_FORMATS:
        raise InvalidValue(f"formats: {len(words):,} are more than {MAX_FORMATS}")
    return tuple(words)


def _checked_limits(limits: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    if not isinstance(limits, Mapping):
        raise InvalidValue(f"limits: {scalars.shown(limits)} is no mapping of limits")
    return {subject: _checked_limit(subject, limit) for subject, limit in limits.items()}


def _checked_limit(subject: object, limit: object) -> tuple[int, int]:
    if subject not in LIMITED:
        raise InvalidValue(f"limits: {scalars.shown(subject)} is not one of {', '.join(LIMITED)}")
    pair = tuple(limit) if isinstance(limit, tuple | list) else ()
    if len(pair) == 2 and all(isinstance(n, int) and not isinstance(n, bool) for n in pair):
        most, places = pair
        if 1 <= most < places <= LARGEST_SPAN:
            return most, places
    raise InvalidValue(
        f"limits: {subject}: {scalars.shown(limit)} is not a pair such as (2, 10): at most 2 videos"
        f" in any 10 places, which are more than the videos and at most {LARGEST_SPAN}"
    )


def checked_feed_name(name: object) -> str | None:
    """Return the name of a feed that is asked for; `UnknownFeed` if no feed can have it."""
    if name is not None and not (isinstance(name, str) and NAME.fullmatch(name)):
        raise _unknown(name)
    return name


def newest_feed_id() -> sa.ScalarSelect[int]:
    """Return the row id of the feed with the name of the bind parameter `feed`."""
    version = aliased(FeedVersion)
    wanted = version.name == sa.bindparam("feed"), version.deleted_at.is_(None)
    newest = sa.select(version.id).where(*wanted).order_by(version.version.desc())
    return newest.limit(1).scalar_subquery()


def with_feed(statement: Statement, row_id: sa.SQLColumnExpression[int | None]) -> Statement:
    """Add a version of a feed to a statement; `feed_in` reads it from a row."""
    columns = (getattr(FeedVersion, name).label(f"feed_{name}") for name in _COLUMNS)
    return statement.add_columns(*columns).outerjoin(FeedVersion, FeedVersion.id == row_id)


_COLUMNS = (
    "id", "name", "version", "created_at", "deleted_at", "profile", "profile_version", "memory",
    "sources", "formats", "limits",
)  # fmt: skip


def profile_id_of(rows: CTE) -> sa.ScalarSelect[int]:
    """Return the profile's row id for the feed in a row of `with_feed`; NULL if it names none."""
    version, number = aliased(ProfileVersion), rows.c.feed_profile_version
    is_wanted = sa.or_(number.is_(None), version.version == number)
    named = sa.select(version.id).where(version.name == rows.c.feed_profile, is_wanted)
    return named.order_by(version.version.desc()).limit(1).correlate(rows).scalar_subquery()


def feed_in(row: Any, asked: str | None) -> Feed | None:
    """Return the feed of a row of `with_feed`; None for For You.

    Args:
        row: the row.
        asked: the name that the caller asked for; None for the feed of the session.

    Raises:
        UnknownFeed: there is no such feed.
        InvalidValue: the session began with another feed.
    """
    if asked is not None and row.feed_name != asked:
        if getattr(row, "next_position", None) is None:
            raise _unknown(asked)
        began = scalars.shown(row.feed_name) if row.feed_name else "none"
        raise InvalidValue(f"feed: the session has {began}: leave feed out to continue it")
    return None if row.feed_id is None else feed_of(row, "feed_")


def check_sources(feed: Feed, registry: Registry) -> None:
    """Raise `InvalidValue` if a source of a feed is not registered any more."""
    known = [source.name for source in registry.every_source]
    if missing := [name for name in feed.sources if name not in known]:
        raise InvalidValue(
            f"sources: the feed {feed.name} reads {missing[0]}, which is not registered: register"
            f" it, or create a version of the feed with others of {', '.join(known)}"
        )


def formats_of(feed: Feed | None, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Return the requested formats that the feed has; without a request, all its formats.

    Raises:
        InvalidValue: the feed has none of the formats.
    """
    if feed is None or not feed.formats or not asked:
        return asked or (() if feed is None else feed.formats)
    if both := tuple(name for name in asked if name in feed.formats):
        return both
    raise InvalidValue(f"formats: the feed {feed.name} has only {', '.join(feed.formats)}")


def feed_of(row: Any, prefix: str = "") -> Feed:
    """Return the feed in a row, whose columns have a prefix."""
    stored = {name: getattr(row, prefix + name) for name in _COLUMNS}
    profile, number = stored.pop("profile"), stored.pop("profile_version")
    memory = stored["memory"]
    return Feed(
        **{
            **stored,
            "profile": f"{profile}@{number}" if number else profile,
            "formats": tuple(stored["formats"]),
            "limits": {subject: tuple(limit) for subject, limit in stored["limits"].items()},
            "memory": "shared" if memory == FOR_YOU_MEMORY else "own",
            "memory_id": memory,
        }
    )


def _unknown(name: object) -> UnknownFeed:
    return UnknownFeed(f"there is no feed {scalars.shown(name)}")
