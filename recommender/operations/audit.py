"""Check the served pages against the recommender's promises; read-only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Select

from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.database.schema import first_state
from recommender.database.session import Session
from recommender.errors import UnknownFeed
from recommender.feed.feeds import every_feed, feed_of
from recommender.formats import scalars
from recommender.models import FeedSession
from recommender.models.tables import LEARNING_STATE
from recommender.operations import audit_statements as statements
from recommender.operations.audit_statements import Audited
from recommender.ranking.request import Feed
from recommender.settings import Settings
from recommender.telemetry import traced

PROMISES = (
    "repeats", "neighbours_creator", "neighbours_sound", "beyond_limits", "served_again",
    "served_too_often", "muted", "blocked", "own", "out_of_order",
)  # fmt: skip
"""The counts of an audit that are 0 if the recommender kept its promises."""


SECONDS_PER_DAY = 86_400

MAX_DAYS = 1e6
"""More days than there are between any two times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Figures about the served pages, and the number of times each promise was broken.

    A place is one video at one position of a session. The reference formula makes no promises about
    neighbours, repeats across sessions, mutes or own videos, so these counts leave out its places.
    Audiences and discoverable creators cannot be audited, because their past is not kept, nor can
    the promise that a seen video does not come again, because the time of looking is not.

    Attributes:
        sessions: sessions started.
        pages: pages with at least one video; empty pages are not recorded.
        items: places served.
        users: users with at least one place.
        repeats: promise: places whose video had an earlier place in the same session.
        neighbours_creator: promise: places, not marked crowded, with the same creator as the
            previous place.
        neighbours_sound: promise: the same count for the sound.
        beyond_limits: promise: places, not marked crowded, after as many videos of their creator,
            sound or format as the limits of their feed allow.
        crowded: places for which all candidates had the creator or the sound of the place before,
            or were beyond the limits of the feed.
        served_again: promise: places whose video was served to the same user in an earlier session
            of the same memory less than `Settings.served_again_after` before; refilled places, and
            rewatch sessions, earlier or later, are left out.
        served_too_often: promise: places whose video had been served to the same user
            `Settings.served_attempts` times, likewise.
        unseen: places that the user did not look at: they belong to no event, and the session is
            not seen so far; rewatch sessions are left out. Not a promise.
        seen_before: places whose video had an earlier event by the user; rewatch sessions are left
            out. Not a promise, because events may arrive late.
        muted: promise: places whose video was muted before it was served, and is still muted: by
            creator, hashtag, sound, creator of the sound, or keyword in the caption.
        blocked: promise: places whose video is by a creator whom the user had blocked, or who had
            blocked the user, before it was served; the block is still there.
        own: promise: places with a video by the user.
        out_of_order: promise: sessions whose positions are not 1, 2, 3 and so on without a gap.
        explored_share: exploration places as a share of all, 0 to 1; None if there are no places.
        short_pages: pages with fewer videos than requested.
        small_creators_share: share of places, 0 to 1, by creators with a published video and at
            most the median number of followers; None if there are no places.
        creator_gini: Gini coefficient of places per creator, over creators with a place: 0 is equal
            shares, near 1 is one creator with nearly all; None if there are no places.
    """

    sessions: int
    pages: int
    items: int
    users: int
    repeats: int
    neighbours_creator: int
    neighbours_sound: int
    beyond_limits: int
    crowded: int
    served_again: int
    served_too_often: int
    unseen: int
    seen_before: int
    muted: int
    blocked: int
    own: int
    out_of_order: int
    explored_share: float | None
    short_pages: int
    small_creators_share: float | None
    creator_gini: float | None

    @property
    def broken(self) -> tuple[str, ...]:
        """The names of the broken promises."""
        return tuple(name for name in PROMISES if getattr(self, name))

    def as_dict(self) -> dict[str, Any]:
        """Return the figures and the names of the broken promises, as `audit` prints them."""
        return {**asdict(self), "broken": list(self.broken)}


@traced
def audit(
    session: Session,
    *,
    since: datetime | None = None,
    feed: str | None = None,
    settings: Settings | None = None,
) -> Audit:
    """Check every served page against the recommender's promises.

    All places are read several times. For many millions of places, allow minutes in PostgreSQL's
    `statement_timeout`.

    Args:
        session: the caller's transaction; nothing is written.
        since: a time with an offset: check only sessions with a page at or after this time, each
            session as a whole; None checks all sessions.
        feed: the name of a feed, also of one that was deleted: check only its sessions; None
            checks all sessions.
        settings: the settings that the pages were served with; None for the environment's.

    Raises:
        InvalidValue: the time is malformed or has no offset.
        UnknownFeed: there never was such a feed.
    """
    settings = settings or Settings.from_environment()
    first_state(_rows(session, sa.select(LEARNING_STATE.c.id)))
    versions = _versions(session, feed)
    audited = _audited(since, None if feed is None else versions)
    totals = _one(session, statements.totals(audited))
    explored, items = totals.pop("explored"), totals.pop("places")
    return Audit(
        **totals,
        items=items,
        **_one(session, statements.repeats(audited)),
        **_one(session, statements.neighbours(audited)),
        beyond_limits=sum(
            _count(session, statements.beyond_limit(audited, version.id, subject, *limit))
            for version in versions
            for subject, limit in version.limits.items()
        ),
        served_again=_count(session, statements.served_again(audited, _days_between(settings))),
        served_too_often=_count(
            session, statements.served_too_often(audited, settings.served_attempts)
        ),
        unseen=_count(session, statements.unseen(audited)),
        seen_before=_count(session, statements.seen_before(audited)),
        muted=_count(session, statements.muted_videos(audited)),
        blocked=_count(session, statements.blocked_videos(audited)),
        own=_count(session, statements.own_videos(audited)),
        explored_share=explored / items if items else None,
        small_creators_share=_small_creators_share(
            _all(session, statements.creators_by_followers(audited))
        ),
        creator_gini=_gini(_all(session, statements.creators_by_places(audited))),
    )


def _versions(session: Session, feed: str | None) -> list[Feed]:
    """Return the versions of a feed, also of a deleted one; of all feeds if it is None."""
    every = [feed_of(row) for row in _all(session, every_feed())]
    versions = [version for version in every if feed in {None, version.name}]
    if feed is not None and not versions:
        raise UnknownFeed(f"there is no feed {scalars.shown(feed)}")
    return versions


def _audited(since: datetime | None, versions: Sequence[Feed] | None) -> Audited:
    """Return the condition that a session is audited."""
    conditions = [] if since is None else [FeedSession.last_at >= scalars.time(since)]
    if versions is not None:
        conditions.append(FeedSession.feed_id.in_([version.id for version in versions]))
    return sa.and_(*conditions) if conditions else None


def _days_between(settings: Settings) -> float:
    """Return the least time in days between two places of one video that is not seen."""
    # Ages are rounded to doubles. The smallest part of a time is a microsecond.
    after = settings.served_again_after or math.inf
    return min(after / SECONDS_PER_DAY, MAX_DAYS) - 5e-12


def _one(session: Session, totals: Statement) -> dict[str, int]:
    """Return the single row of a statement of sums, with 0 for a sum over no rows."""
    (row,) = _all(session, totals)
    return {name: int(value or 0) for name, value in row._mapping.items()}  # noqa: SLF001 - its API


def _count(session: Session, rows: Select[Any] | sa.CompoundSelect[Any]) -> int:
    """Return the number of rows."""
    counted = sa.select(sa.func.count()).select_from(rows.subquery("places"))
    return int(_all(session, counted)[0][0])


def _all(session: Session, statement: Statement) -> Sequence[Any]:
    return _rows(session, statement).all()


def _rows(session: Session, statement: Statement) -> sa.Result[Any]:
    return lookup.run(session, statement.prefix_with("/* recommender.audit */"))


def _gini(counts: Sequence[Any]) -> float | None:
    """Return the Gini coefficient from groups of creators with equal numbers of places."""
    creators = places = weighted = 0
    for group in counts:
        ranks = group.creators * creators + group.creators * (group.creators + 1) // 2
        weighted += group.places * ranks
        creators += group.creators
        places += group.places * group.creators
    return (2 * weighted - (creators + 1) * places) / (creators * places) if places else None


def _small_creators_share(groups: Sequence[Any]) -> float | None:
    """Return the share of places by the less followed half of the listed creators."""
    half = sum(group.creators for group in groups) / 2
    places = sum(group.all_places for group in groups)
    creators = small = 0
    for group in groups:
        if creators >= half:
            break
        creators += group.creators
        small += group.places
    return float(small / places) if places else None
