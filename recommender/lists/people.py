"""People to follow: creators whom a user does not follow yet.

Candidates are whom the people follow whom the user follows, creators whose videos the user enjoyed
or is likely to enjoy, creators of trending videos and creators of the newest videos. The profile
`people` weighs them. Someone who was suggested on several days and was not followed comes after all
others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement

from recommender.database import lookup
from recommender.database.expressions import named
from recommender.database.session import Session
from recommender.errors import InvalidValue
from recommender.feed.cursors import decoded, encoded, foreign, time_of
from recommender.feed.resolve import checked_predicate, reading_time, resolve
from recommender.feed.statements import cached_statement, run_cached
from recommender.feed.values import Contribution
from recommender.formats.scalars import EARLIEST, LARGEST_ID, LATEST, AnyKey
from recommender.lists.people_ranking import people_values, ranked_people
from recommender.lists.people_reasons import with_reasons
from recommender.lists.people_shown import record_shown
from recommender.lists.people_sources import PEOPLE_SOURCES, with_follows
from recommender.lists.people_values import PeoplePage, Person
from recommender.models.tables import USERS
from recommender.models.types import microseconds
from recommender.ranking.additions import kept_shape
from recommender.ranking.profiles import check_person_signal
from recommender.ranking.request import DEFAULT_LIMIT, PEOPLE, FeedRequest, Profile
from recommender.ranking.scoring import score_of
from recommender.ranking.viewer import Shape, Viewer
from recommender.settings import Settings
from recommender.telemetry import traced

LARGEST_KEY = 2**63 - 1

_FORM = ">q?qq"


class PeoplePosition(NamedTuple):
    """The position of a creator in the list, as a cursor holds it.

    Attributes:
        as_of: the reading time of the list.
        is_worn: whether the creator was suggested often enough.
        score_key: their score in whole billionths.
        creator_id: their row id.
    """

    as_of: datetime
    is_worn: bool = False
    score_key: int = LARGEST_KEY
    creator_id: int = LARGEST_ID

    @property
    def cursor(self) -> str:
        """The text that asks for the people below."""
        return encoded(struct.pack(_FORM, microseconds(self.as_of), *self[1:]))

    @classmethod
    def of(cls, cursor: str) -> PeoplePosition:
        """Return the position that a cursor holds.

        Raises:
            InvalidCursor: the text is not a cursor of this list.
        """
        try:
            as_of, *place = struct.unpack(_FORM, decoded(cursor))
            position = cls(time_of(as_of), *place)
        except (struct.error, ValueError, OverflowError):
            raise foreign(cursor) from None
        is_possible = EARLIEST <= position.as_of <= LATEST
        if not is_possible or position.cursor != cursor:
            raise foreign(cursor)
        return position

    def values(self) -> dict[str, int]:
        """Return the bound values of the statement."""
        place = {"worn": int(self.is_worn), "key": self.score_key, "id": self.creator_id}
        return {f"after_{name}": value for name, value in place.items()}


@traced
def people(
    session: Session,
    user: AnyKey,
    *,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    profile: str | Profile = PEOPLE,
    as_of: datetime | None = None,
    where: ColumnElement[bool] | None = None,
    exclude: Iterable[AnyKey] = (),
    settings: Settings | None = None,
    record: bool = False,
    reasons: bool = False,
) -> PeoplePage:
    """Return creators whom the user could follow: two statements.

    No one comes whom the user follows, muted, blocked or dismissed, who blocked the user, or who
    has no published video for everyone. The same request gives the same list while nothing
    changes, and during the day also after `record`. A page is short only if no more people are
    left; it is then `exhausted`. The last are the creators of the newest 1,000 videos.

    Args:
        session: the caller's transaction; nothing is committed.
        user: the user's key; an unknown user gets popular and new creators.
        limit: the maximum number of people, 1 to 500.
        cursor: the cursor of the page before; None or empty for the first page. Pass the other
            arguments again with it.
        profile: ``people``, whose newest version serves, or ``people@version``, or a
            `Profile`.
        as_of: the reading time, with an offset; None for now. A cursor keeps the one of the first
            page, but at most this one.
        where: a condition of the host over `User`; use EXISTS for the host's tables.
        exclude: the keys of users to leave out, 10,000 at most.
        settings: the numbers that shape signals; None for the environment's.
        record: whether to count that the page was shown: one statement more. Each person counts
            once a day (UTC), so the page can be requested again. Who was shown on
            `Settings.suggestion_days` comes after all others. On SQLite the transaction must be a
            writing one.
        reasons: whether the items tell their reasons: one statement more.

    Raises:
        InvalidValue: a value has the wrong form, or the profile is about videos.
        InvalidCursor: the cursor does not belong to this list.
        UnknownProfile: the profile or version does not exist.
    """
    after = PeoplePosition.of(cursor) if cursor else None
    moment = reading_time(as_of)
    request = resolve(
        session, user, profile, limit=limit, as_of=min(after.as_of, moment) if after else moment,
        exclude=exclude, settings=settings, lock=record,
    )  # fmt: skip
    _check_profile(request)
    request = replace(request, where=checked_predicate(where, USERS), session=None)
    request = with_follows(session, request)
    rows = _rows(session, request, after or PeoplePosition(request.as_of))
    page = _page(request, rows)
    if record and request.known:
        record_shown(session, request, [item.creator_id for item in page.items])
    if not reasons:
        return page
    return with_reasons(session, request, page, [row.is_spoken for row in rows])


def _check_profile(request: FeedRequest) -> None:
    """Raise `InvalidValue` if the profile ranks videos."""
    profile = request.profile
    if profile.name != PEOPLE:
        raise InvalidValue(f"profile: {profile.name} ranks videos, not people: give {PEOPLE}")
    for signal in profile.weights:
        check_person_signal(signal)


def _rows(session: Session, request: FeedRequest, after: PeoplePosition) -> Sequence[Any]:
    """Read the people of a page, and one more if there is one: one statement."""
    connection = lookup.connection(session)
    values = {**people_values(request), **after.values()}
    shape = Shape.of(request)
    kept = kept_shape(shape)
    if kept is None:
        whole = named(ranked_people(shape, Viewer.of(request)), PEOPLE)
        return connection.execute(whole, values).all()
    statement = cached_statement(ranked_people, named, PEOPLE, kept.shape)
    return run_cached(connection, statement, {**values, **kept.values}).all()


def _page(request: FeedRequest, rows: Sequence[Any]) -> PeoplePage:
    shown = rows[: request.limit]
    items = tuple(_person(request, place, row) for place, row in enumerate(shown, start=1))
    if len(rows) <= len(shown):
        return PeoplePage(request.summary(), items, exhausted=True)
    last = shown[-1]
    position = PeoplePosition(request.as_of, bool(last.is_worn), last.score_key, last.creator_id)
    return PeoplePage(request.summary(), items, cursor=position.cursor)


def _person(request: FeedRequest, position: int, row: Any) -> Person:
    values, weights = row._mapping, request.profile.weights  # noqa: SLF001 - its API
    sources = (each.name for bit, each in enumerate(PEOPLE_SOURCES) if int(row.sources) >> bit & 1)
    return Person(
        position=position,
        creator=row.creator,
        score=score_of(row.score_key),
        sources=tuple(sources),
        signals={name: Contribution(values[name], weight) for name, weight in weights.items()},
        creator_id=row.creator_id,
    )
