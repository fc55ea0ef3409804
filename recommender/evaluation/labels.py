"""Label impressions: what each led to, with its signals and its position in the session.

The impressions come from served pages, with the signals recorded with them, or from a replayed log,
with the signals as of the start of their slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.database.expressions import (
    Number,
    Statement,
    is_positive,
    is_true,
    is_viewed,
    number,
)
from recommender.database.registered import kept_registry
from recommender.errors import InvalidValue
from recommender.evaluation.log_files import ENGAGED, TARGETS
from recommender.evaluation.log_replay import Progress, Timeline
from recommender.feed.resolve import resolve
from recommender.feed.statements import page_rows
from recommender.formats import scalars
from recommender.formats.scalars import UNDATED
from recommender.learning.outcomes import has_outcome
from recommender.models import (
    ExperimentRow,
    FeedSession,
    FeedVersion,
    Interaction,
    ProfileVersion,
    ProfileWeight,
    ServedVideo,
    Video,
)
from recommender.models.tables import VIDEOS
from recommender.ranking.registry import known_registry
from recommender.ranking.request import REFERENCE, Profile
from recommender.ranking.scoring import ranked_given
from recommender.settings import Settings

MAX_VALUE = 1_000_000.0

GROUP_STARTS = (2, 3, 5, 9, 17, 33, 65)
"""The first positions of the groups of positions that share an effect. Position 1 is a group."""

PLACES = tuple(f"place_{first}" for first in GROUP_STARTS)
"""The features for the group of positions of an impression."""

HAPPENED = {
    ENGAGED: is_positive(Interaction),
    "like": Interaction.liked_at.is_not(None),
    "share": Interaction.shares > 0,
    "save": Interaction.saved_at.is_not(None),
    "comment": Interaction.comments > 0,
    "convert": Interaction.conversions > 0,
    "interested": Interaction.interested_at.is_not(None),
}
"""The condition on the state of a user and a video, by target."""


def target_values(target: str | Mapping[str, float]) -> dict[str, float]:
    """Return the outcomes with their values; a single target has the value 1.

    Args:
        target: one of `TARGETS`, several with their values as ``engaged=1,like=3``, or these as a
            mapping; a value is above 0.

    Raises:
        InvalidValue: the target is malformed.
    """
    given: Mapping[str, Any]
    if isinstance(target, Mapping):
        given = target
    elif not isinstance(target, str):
        raise InvalidValue(f"target: {scalars.shown(target)} is neither text nor a mapping")
    elif "=" not in target:
        given = {target: 1.0}
    else:
        pairs = [outcome.partition("=")[::2] for outcome in target.split(",")]
        given = dict(pairs)
        if len(given) < len(pairs):
            raise InvalidValue(f"target: {scalars.shown(target)} names an outcome twice")
    if not given:
        raise InvalidValue("target: no outcome is given")
    return {_target(name): _value(name, value) for name, value in given.items()}


def _target(name: str) -> str:
    if name not in TARGETS:
        raise InvalidValue(f"target: {scalars.shown(name)} is not one of {', '.join(TARGETS)}")
    return name


def _value(name: str, value: object) -> float:
    worth = scalars.parse_named(f"target: {name}", scalars.number, value, 0, MAX_VALUE)
    if not worth:
        raise InvalidValue(f"target: {name}: is worth nothing")
    return worth


def recorded_signals(
    connection: Connection, since: datetime, until: datetime
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the signals that every page of For You between two times recorded, and the others."""
    served = (
        sa.select(ServedVideo.profile_id)
        .join(FeedSession, _is_of_session())
        .join(ProfileVersion, ProfileVersion.id == ServedVideo.profile_id)
    )
    ids = connection.scalars(served.where(*_between(since, until)).distinct()).all()
    weighed = sa.select(ProfileWeight.signal).where(ProfileWeight.profile_id.in_(ids))
    by_all = weighed.group_by(ProfileWeight.signal).having(sa.func.count() == len(ids))
    recorded = set(connection.scalars(by_all))
    names = known_registry(kept_registry(connection)).every_signal
    return (
        tuple(name for name in names if name in recorded),
        tuple(name for name in names if name not in recorded),
    )


def _between(since: datetime, until: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the condition: served by For You between two times, and its positions recorded."""
    return (
        FeedSession.feed_id.is_(None),
        ServedVideo.served_at >= since,
        ServedVideo.served_at < until,
        ProfileVersion.name != REFERENCE,
    )


def served_rows(
    signals: Sequence[str], values: Mapping[str, float], since: datetime, until: datetime
) -> Statement:
    """Return a statement for the impressions of pages that For You served.

    Its columns are user, time, label, signals, and the groups of positions. It selects only videos
    with an event that proves that they were shown: positions that the viewer did not reach carry no
    verdict. The videos were new to the viewer, so every outcome came later. If a video was served
    several times before its first event, the last place counts.
    """
    return (
        sa.select(
            ServedVideo.user_id,
            ServedVideo.served_at,
            _label(values),
            *(
                sa.func.coalesce(ServedVideo.signals[name].as_float(), number(0))
                for name in signals
            ),
            *_places(),
        )
        .join(Interaction, _is_same())
        .join(FeedSession, _is_of_session())
        .join(ProfileVersion, ProfileVersion.id == ServedVideo.profile_id)
        .where(*_first_shown(), *_between(since, until))
        .prefix_with("/* recommender.fit */")
    )


def served_pages(
    values: Mapping[str, float], since: datetime, until: datetime, feed: str | None = None
) -> Statement:
    """Return a statement for the videos of the sessions that `began_between` two times.

    They come in the order of their positions, with creator, sound, format and label. `is_positive`
    is true for a positive state, and `is_shown` for impressions as in `served_rows`. Pages of the
    reference formula have no positions and are left out.
    """
    served = ServedVideo
    return (
        sa.select(
            served.user_id, served.session, served.page, served.position, served.video_id,
            served.profile_id, served.score_key, served.explored, served.signals,
            Video.creator_id, Video.sound_id, Video.format, Video.published_at, FeedSession.feed_id,
            is_true(is_shown()).label("is_shown"),
            _label(values).label("label"), is_true(HAPPENED[ENGAGED]).label("is_positive"),
        )
        .join(FeedSession, _is_of_session())
        .join(ProfileVersion, ProfileVersion.id == served.profile_id)
        .join(Video, Video.id == served.video_id)
        .outerjoin(Interaction, _is_same())
        .where(*began_between(since, until, feed), ProfileVersion.name != REFERENCE)
        .order_by(served.user_id, served.session, served.position)
        .prefix_with("/* recommender.replay */")
    )  # fmt: skip


def began_between(
    since: datetime, until: datetime, feed: str | None = None
) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the condition: the session began at `since` or later, and before `until`.

    Sessions that began in an interleaved experiment are left out: two profiles ranked their pages.

    Args:
        since: the start.
        until: the end.
        feed: the name of its feed, in any version; None for For You.
    """
    versions = sa.select(FeedVersion.id).where(FeedVersion.name == feed)
    own = FeedSession.feed_id
    is_of_feed = own.is_(None) if feed is None else own.in_(versions)
    mixed = sa.select(ExperimentRow.id).where(ExperimentRow.interleaved)
    own_experiment = FeedSession.experiment_id
    has_one_profile = sa.or_(own_experiment.is_(None), own_experiment.not_in(mixed))
    is_between = FeedSession.started_at >= since, FeedSession.started_at < until
    return *is_between, is_of_feed, has_one_profile


def _is_of_session() -> sa.ColumnElement[bool]:
    return sa.and_(
        FeedSession.user_id == ServedVideo.user_id, FeedSession.session == ServedVideo.session
    )


def _is_same() -> sa.ColumnElement[bool]:
    return sa.and_(
        Interaction.user_id == ServedVideo.user_id, Interaction.video_id == ServedVideo.video_id
    )


def _first_shown() -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions: the served video was shown, and was new to its viewer."""
    return is_viewed(Interaction), has_outcome()


def is_shown() -> sa.ColumnElement[bool]:
    """Return the condition: the events of the joined state belong to the place, in any session."""
    # In a rewatch session a video may have been seen within the clock skew, so no tolerance then.
    was_new = sa.or_(~FeedSession.rewatch, Interaction.first_at >= ServedVideo.served_at)
    return sa.and_(*_first_shown(), was_new)


def _label(values: Mapping[str, float]) -> Number:
    """Return the value of the actual outcomes, as a share of the value of all outcomes."""
    worth = [number(value) * is_true(HAPPENED[name]) for name, value in values.items()]
    total: Any = sum(worth[1:], start=worth[0])
    return total / number(math.fsum(values.values()))  # type: ignore[no-any-return] # a double


def _places() -> list[Number]:
    ends = (*(first - 1 for first in GROUP_STARTS[1:]), sa.literal(2**31 - 1))
    pairs = zip(GROUP_STARTS, ends, strict=True)
    return [is_true(ServedVideo.position.between(first, last)) for first, last in pairs]


def every_signal(session: Session) -> Profile:
    """Return a profile that reads all signals of the registry, in its order."""
    registry = known_registry(lookup.registry(session))
    return Profile("every_signal", 1, dict.fromkeys(registry.every_signal, 1.0))


@dataclass(frozen=True, slots=True)
class Impression:
    """A video that was shown to a user, with its signals from before.

    Attributes:
        user, video: their keys.
        values: the values of the signals, in the order of the registry.
        published_at: when the video was published.
        engaged_views: the number of users who had engaged with the video.
    """

    user: str
    video: str
    values: tuple[float, ...]
    published_at: datetime
    engaged_views: int


def read_impressions(
    session: Session,
    user: str,
    videos: Sequence[str],
    as_of: datetime,
    settings: Settings,
    formats: Sequence[str] = (),
) -> list[Impression]:
    """Return the videos shown to a user, with every signal as of an earlier time.

    Args:
        session: on the scratch database.
        user: the viewer's key.
        videos: the keys of the videos.
        as_of: the reading time.
        settings: the settings of signals.
        formats: leave out the videos of other formats; empty for all videos.
    """
    views = dict(_engaged_views(session, videos))
    request = resolve(session, user, every_signal(session), as_of=as_of, settings=settings)
    values_of = itemgetter(*request.profile.weights)
    rows = page_rows(session, request, ranked_given, "evaluate", videos)
    return [
        Impression(user, row.page_video, values, _published_at(row), views[row.page_video])
        for row in rows
        if not formats or row.page_format in formats
        for values in (values_of(row._mapping),)  # noqa: SLF001 - its API
    ]


def _published_at(row: Any) -> datetime:
    """Return the publication time of a video, before all others if it is unknown."""
    moment: datetime = row.page_published_at or UNDATED
    return moment


def _engaged_views(session: Session, videos: Sequence[str]) -> Iterator[tuple[str, int]]:
    keys = [(key,) for key in videos]
    rows = lookup.find(session, [VIDEOS.c.key], keys, [VIDEOS.c.key, VIDEOS.c.engaged_views])
    return ((key, views) for key, views in rows)


def replayed_rows(
    timeline: Timeline,
    start: datetime,
    every: timedelta,
    values: Mapping[str, float],
    report: Progress,
) -> Iterator[tuple[Any, ...]]:
    """Yield the impressions of a log's later part: user, time, label, signals.

    Args:
        timeline: its database holds the log up to the start.
        start: the cut.
        every: the length of a slice.
        values: the values of the outcomes.
        report: told of the progress.
    """
    numbers: dict[str, int] = {}
    done, whole = 0, math.fsum(values.values())
    for part in timeline.walk(start, every):
        shown = timeline.shown(part, values)
        with Session(timeline.engine) as session:
            for users, (user, videos) in enumerate(shown.items(), start=1):
                number_of_user = numbers.setdefault(user, len(numbers))
                impressions = read_impressions(
                    session, user, list(videos), part.start, timeline.settings
                )
                for impression in impressions:
                    at, outcomes = videos[impression.video]
                    label = math.fsum(values[name] for name in outcomes) / whole
                    yield (number_of_user, at, label, *impression.values)
                report(
                    "fitting", done + len(part.events) * users // len(shown), len(timeline.events)
                )
        done += len(part.events)
