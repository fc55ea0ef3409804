"""The users who would want a video most, for a message about it.

It is For You the other way round. Users come from the followers of the creator, and from the
viewers of the videos around the given one. Every filter of For You is then asked about each of
them, and they are ordered by the user-dependent part of the For You score. Nothing
is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import CTE, BigInteger, ColumnElement, Label, Subquery, Text
from sqlalchemy.orm import InstrumentedAttribute, aliased
from sqlalchemy.types import TypeEngine

from recommender.database import lookup
from recommender.database.expressions import (
    Number,
    Statement,
    fence,
    is_true,
    json_texts,
    materialized,
    named,
    number,
    saturated,
)
from recommender.database.session import Session
from recommender.errors import RecommenderError
from recommender.feed.items import video_ids, video_key
from recommender.feed.resolve import resolve
from recommender.feed.statements import cached_statement, run_cached
from recommender.formats.scalars import AnyKey
from recommender.models import (
    Affinity,
    Follow,
    User,
    UserHashtag,
    UserSound,
    Video,
    VideoHashtag,
)
from recommender.models.tables import NEIGHBOURS, RECENT
from recommender.ranking.filters import filters_in, host_conditions
from recommender.ranking.history import neighbour_weight, some
from recommender.ranking.request import FeedRequest, check_limit
from recommender.ranking.scoring import score_key, score_of
from recommender.ranking.signals import faded
from recommender.ranking.similar import by_creator, sounding, tagged
from recommender.ranking.viewer import Shape, Viewer, values_of
from recommender.settings import Settings
from recommender.telemetry import traced

REACH_LIMIT, MOST_REACHED = 1_000, 10_000
"""The default and the largest number of users."""

USERS_PER_PLACE = 2
"""The number of users that a source gives per place of the list, as some are filtered out.

A list of fewer than `REACH_LIMIT` users has the sources of a full one: otherwise the first few
followers could be all that a source gives, and all have seen the video.
"""

RELATED_VIDEOS = 50
"""The largest number of videos per source whose viewers are read.

They have equal shares of the users of the source, so that one popular video does not fill it.
"""

RECIPIENT = aliased(User, name="recipient")
"""The user whom a row of the statement is about."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """A user who would want a video.

    Attributes:
        user: the user's key.
        score: the weighted sum of the signals that depend on the user, to nine decimals.
        sources: the sources that found the user: ``followers``, ``creators``, ``hashtags``,
            ``sounds`` and ``neighbours``.
    """

    user: str
    score: float
    sources: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the user as `reach --format json` prints them."""
        return {"user": self.user, "score": self.score, "sources": list(self.sources)}


@traced
def reach(
    session: Session,
    video: AnyKey,
    *,
    limit: int = REACH_LIMIT,
    profile: str | None = None,
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> tuple[Recipient, ...]:
    """Return the users who would want a video most, best first: three statements.

    The list is for the host's server, for example to send messages. Show it to no user: it tells
    who follows the creator and what people enjoy. It writes nothing.

    The list has only users to whom For You could show the video now. It is empty for a video that
    is removed, under review, published later than the reading time, or by an undiscoverable
    creator. Users with equal scores are in the order of their ids. The number of rows read depends
    on the limit, not on the size of the catalogue or the number of followers.

    Args:
        session: the caller's transaction.
        video: the video's key.
        limit: the maximum number of users, 1 to 10,000.
        profile: ``name`` or ``name@version`` of the weights; None for the active profile.
        as_of: the reading time, with an offset; None for now.
        settings: the numbers that shape signals; None for the environment's.

    Raises:
        InvalidValue: a value has the wrong form.
        UnknownProfile: the profile or version does not exist.
        UnknownSignal: the profile weighs a signal that there is not, or ranks people.
        UnknownVideo: the video does not exist.
    """
    most = check_limit(limit, MOST_REACHED)
    if lookup.is_distributed(session):
        raise RecommenderError("reach reads rows of all users at once, which Citus cannot")
    key = video_key(video)
    request = resolve(session, None, profile, as_of=as_of, settings=settings)
    request.registry.check(request.profile)
    video_ids(session, [key])
    rows = _rows(session, replace(request, seeds=(key,)), most)
    return tuple(Recipient(row.key, score_of(row.score_key), _sources(row)) for row in rows)


def _rows(session: Session, request: FeedRequest, limit: int) -> Any:
    """Read the users of the list: one statement."""
    statement = cached_statement(reached_users, named, "reach", Shape.of(request))
    most = USERS_PER_PLACE * max(limit, REACH_LIMIT)
    values = {**values_of(request), "users": limit, "users_of_source": most}
    return run_cached(lookup.connection(session), statement, values)


def _sources(row: Any) -> tuple[str, ...]:
    return tuple(each.name for bit, each in enumerate(SOURCES) if int(row.sources) >> bit & 1)


def reached_users(shape: Shape, viewer: Viewer) -> Statement:
    """Return the users of the list in order.

    `users` limits the list and `users_of_source` a source; both are bound values.
    """
    facts = _facts(shape, viewer)
    values = _signals(facts, viewer)
    signals = {name: values[name] for name in shape.signals if name in values}
    nothing = sa.literal(0, BigInteger()).label("score_key")
    key = score_key(signals, viewer) if signals else nothing
    ranked = sa.select(facts.c.id, facts.c.key, facts.c.sources, key)
    return ranked.order_by(sa.desc("score_key"), facts.c.id).limit(_bound("users"))


def _bound(name: str) -> ColumnElement[int]:
    return sa.bindparam(name, type_=BigInteger())


def _facts(shape: Shape, viewer: Viewer) -> Subquery:
    """Return the users who may be shown the video, with all that the signals read."""
    found, user = found_users(viewer), RECIPIENT
    conditions = [rule.predicate(_each(viewer)) for rule in filters_in("reach")]
    conditions += host_conditions(shape, _each(viewer), Video.id).values()
    rows = (
        sa.select(
            user.id, user.key, found.c.sources, found.c.near,
            is_true(user.language == Video.language).label("language"),
            is_true(user.country == Video.country).label("country"),
            *_declared(), *_learned(),
        )
        .select_from(found)
        .join(user, user.id == found.c.user_id)
        .join(Video, Video.id == _given(viewer, Video.id))
        .where(user.erased_at.is_(None), user.merged_into.is_(None), *conditions)
    )  # fmt: skip
    # Fenced, the sums are computed once, although the score reads them again.
    return fence(rows).subquery("facts")


def _each(viewer: Viewer) -> Viewer:
    """Return a viewer whose own values are columns: a filter is then about every recipient."""
    # Written as text: as a column, its table would join each subquery within a subquery.
    return replace(
        viewer,
        user_id=_own("recipient.id", BigInteger()),
        key=_own("recipient.key", Text()),
        language=_own("recipient.language", Text()),
        country=_own("recipient.country", Text()),
        device=_own("recipient.device", Text()),
    )


def _own(column: str, type_: TypeEngine[Any]) -> Any:
    return sa.literal_column(column, type_)


def _given(viewer: Viewer, column: InstrumentedAttribute[Any]) -> ColumnElement[Any]:
    """Return a column of the given video, as one value."""
    video, seeds = aliased(Video), viewer.seeds.videos
    value = sa.select(getattr(video, column.key)).join(seeds, seeds.c.id == video.id)
    return value.limit(1).scalar_subquery()


def _declared() -> list[Label[float]]:
    """Return how many hashtags of the video a recipient declared, and whether its sound."""
    is_declared = sa.select(number(1)).where(
        UserHashtag.user_id == RECIPIENT.id, UserHashtag.hashtag_id == VideoHashtag.hashtag_id
    )
    sound = sa.select(UserSound.sound_id).where(
        UserSound.user_id == RECIPIENT.id, UserSound.sound_id == Video.sound_id
    )
    return [_of_hashtags(is_declared).label("hashtags"), is_true(some(sound)).label("sound")]


def _learned() -> list[Label[float]]:
    """Return whether a recipient follows the creator, and their stored affinities."""
    follow = sa.select(Follow.creator_id).where(
        Follow.user_id == RECIPIENT.id, Follow.creator_id == Video.creator_id
    )
    return [
        is_true(some(follow)).label("follows"),
        _or_0(_affinity("creator", Video.creator_id).scalar_subquery()).label("creator"),
        _or_0(_affinity("sound", Video.sound_id).scalar_subquery()).label("its_sound"),
        _of_hashtags(_affinity("hashtag", VideoHashtag.hashtag_id)).label("its_hashtags"),
    ]


def _affinity(subject: str, subject_id: Any) -> sa.Select[float]:
    """Return the affinities of a recipient to a subject."""
    return sa.select(Affinity.score).where(
        Affinity.user_id == RECIPIENT.id,
        Affinity.subject == subject,
        Affinity.subject_id == subject_id,
    )


def _of_hashtags(value: sa.Select[float]) -> ColumnElement[float]:
    """Return the sum of a value over the hashtags of the video."""
    # A look-up for each hashtag: with a join PostgreSQL may read all affinities of a recipient.
    each = value.correlate(VideoHashtag, RECIPIENT).scalar_subquery()
    total = sa.select(sa.func.sum(each)).where(VideoHashtag.video_id == Video.id)
    return _or_0(total.scalar_subquery())


def _or_0(value: ColumnElement[float]) -> ColumnElement[float]:
    return sa.func.coalesce(value, number(0))


def _signals(facts: Subquery, viewer: Viewer) -> dict[str, Number]:
    """Return the signals of For You that depend on the user, as far as few rows tell them."""
    near, half = facts.c.near, viewer.collaborative_scale
    return {
        "follows": facts.c.follows,
        "hashtags": facts.c.hashtags,
        "sound": facts.c.sound,
        "language": facts.c.language,
        "country": facts.c.country,
        "creator_affinity": faded(facts.c.creator, viewer.creator_half),
        "hashtag_affinity": faded(facts.c.its_hashtags, viewer.hashtag_half),
        "sound_affinity": faded(facts.c.its_sound, viewer.sound_half),
        "collaborative": saturated(near * near, half * half),
    }


def found_users(viewer: Viewer) -> CTE:
    """Return the users of all sources: `sources` as a sum of powers of 2, and `near`.

    `near` sums the weights of the neighbours that the user enjoyed lately.
    """
    each = sa.union_all(*(_of_source(viewer, bit) for bit in range(len(SOURCES)))).subquery("each")
    by_source = (
        sa.select(each.c.user_id, each.c.source, sa.func.sum(each.c.near).label("near"))
        .group_by(each.c.user_id, each.c.source)
        .subquery("by_source")
    )
    sources, near = sa.func.sum(by_source.c.source), sa.func.sum(by_source.c.near)
    users = sa.select(by_source.c.user_id, sources.label("sources"), near.label("near"))
    return materialized(users.group_by(by_source.c.user_id).cte("found"))


def _of_source(viewer: Viewer, bit: int) -> Statement:
    """Return the users of a source, each with its power of 2, some more than once."""
    source = SOURCES[bit]
    users = source.select(viewer).limit(_bound("users_of_source")).subquery(source.name)
    power = sa.literal(1 << bit, BigInteger()).label("source")
    return sa.select(users.c.user_id, users.c.near, power)


class UserSource(NamedTuple):
    """A source of users: its name, and a function from a viewer to rows of `user_id` and `near`."""

    name: str
    select: Callable[[Viewer], Statement]


def followers(viewer: Viewer) -> Statement:
    """Users who follow the creator."""
    rows = sa.select(Follow.user_id, number(0).label("near"))
    return rows.where(Follow.creator_id == _given(viewer, Video.creator_id))


def of_creator(viewer: Viewer) -> Statement:
    """Users who lately enjoyed the newest videos of the creator."""
    return _viewers_of(viewer, by_creator(viewer, RELATED_VIDEOS), "newest_of_creator")


def of_hashtags(viewer: Viewer) -> Statement:
    """Users who lately enjoyed the newest videos with its hashtags."""
    return _viewers_of(viewer, tagged(viewer, RELATED_VIDEOS), "newest_of_hashtags")


def of_sound(viewer: Viewer) -> Statement:
    """Users who lately enjoyed the newest videos with its sound."""
    return _viewers_of(viewer, sounding(viewer, RELATED_VIDEOS), "newest_of_sound")


def of_neighbours(viewer: Viewer) -> Statement:
    """Users who lately enjoyed videos whose viewers engaged with the given one too."""
    near = NEIGHBOURS.c
    weight = neighbour_weight(near).label("near")
    sources = sa.select(near.source_id, weight).where(near.video_id == _given(viewer, Video.id))
    return _viewers_of(
        viewer, sources.order_by(sa.desc("near"), near.source_id.desc()), "its_neighbours"
    )


SOURCES = (
    UserSource("followers", followers),
    UserSource("creators", of_creator),
    UserSource("hashtags", of_hashtags),
    UserSource("sounds", of_sound),
    UserSource("neighbours", of_neighbours),
)
"""The sources of users, in the order of their powers of 2."""


def _viewers_of(viewer: Viewer, related: sa.Select[Any], name: str) -> Statement:
    """Return users who lately enjoyed some videos, with an equal share for each video.

    Args:
        viewer: the viewer of the request.
        related: a SELECT of the ids of videos, best first, perhaps with their `near`.
        name: the name of the CTE, another one for each source.
    """
    rows = related.limit(RELATED_VIDEOS).subquery(f"rows_of_{name}")
    near = rows.c.near if "near" in rows.c else number(0)
    videos = materialized(sa.select(rows.c[0].label("id"), near.label("near")).cte(name))
    number_of = sa.select(sa.func.count()).select_from(videos).scalar_subquery()
    few = (
        sa.select(RECENT.c.user_id)
        .where(RECENT.c.video_id == videos.c.id, RECENT.c.at <= viewer.as_of)
        .limit(_bound("users_of_source") // number_of + 1)
        .correlate(videos)
        .subquery(f"few_of_{name}")
    )
    # A list as one value: SQLite has no LATERAL to read a limited number of rows per video.
    ids = sa.func.aggregate_strings(sa.cast(few.c.user_id, Text()), ",")
    listed = sa.select(sa.literal("[") + ids + sa.literal("]")).scalar_subquery()
    user = json_texts(listed).table_valued("value", name=f"users_of_{name}")
    return (
        sa.select(sa.cast(user.c.value, BigInteger()).label("user_id"), videos.c.near)
        .select_from(videos)
        .join(user, sa.true())
    )
