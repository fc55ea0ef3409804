"""Evaluate the list of people to follow: does it hold whom users followed later?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from random import Random

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session, aliased

from recommender.database.aliases import id_of
from recommender.errors import InvalidValue
from recommender.evaluation.lists import (
    Asked,
    Cases,
    ListEvaluation,
    ListTask,
    Sourced,
    evaluate_lists,
)
from recommender.evaluation.log_cut import SAMPLE
from recommender.evaluation.log_files import ENGAGED, LogFiles
from recommender.evaluation.log_replay import Progress, Timeline
from recommender.evaluation.rankers import PAGE
from recommender.formats.scalars import UNDATED
from recommender.lists.people import people
from recommender.lists.people_sources import PEOPLE_SOURCES
from recommender.models import Follow, User, Video
from recommender.ranking.registry import Registry
from recommender.ranking.request import PEOPLE, Profile
from recommender.settings import Settings
from recommender.telemetry import traced


@dataclass(frozen=True, slots=True)
class Creator:
    """A creator who could be suggested; `viewers` and `engaged_views` are their followers."""

    key: str
    creator: int
    published_at: datetime
    viewers: int
    tags: frozenset[tuple[str, int]] = frozenset()

    @property
    def engaged_views(self) -> int:
        """The number of followers."""
        return self.viewers


@dataclass(frozen=True, slots=True)
class Follower:
    """A user at the cut.

    Attributes:
        session: on the scratch database.
        user: the key.
        as_of: the reading time.
        settings: the settings of signals.
        creators: who could be suggested, by row id.
        known: the row ids of the user and of those whom the user follows.
    """

    session: Session
    user: str
    as_of: datetime
    settings: Settings
    creators: Mapping[int, Creator]
    known: frozenset[int]

    def first_new(self, ids: Iterable[int]) -> list[str]:
        """Return the first creators who could be suggested and whom the user does not follow."""
        new = (row_id for row_id in ids if row_id in self.creators and row_id not in self.known)
        return [self.creators[row_id].key for row_id in islice(new, PAGE)]


@traced
def evaluate_follow(
    source: Engine | LogFiles,
    *,
    cutoff: datetime,
    until: datetime | None = None,
    profiles: Sequence[str] = (),
    sample: int = SAMPLE,
    scratch: str | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> ListEvaluation:
    """Evaluate whether the list of people to follow holds whom users followed later.

    The earlier part of the log is learned as by `evaluate`. Wanted are the creators whom a user
    followed after the cut, and who could be suggested at the cut.

    Args:
        source: a prepared engine, whose log is read, or files.
        cutoff: the time at which the log is cut, with an offset.
        until: follows at this time or later are left out.
        profiles: ``people`` or ``people@version`` of the source; ``people`` if empty. Files have
            the built-in profile only.
        sample: the maximum number of users.
        scratch: as for `evaluate`.
        seed: the random seed for the sample.
        settings: the settings to use; read from the environment if None.
        progress: called with the name of a stage, the amount done, and the total amount.

    Raises:
        InvalidValue: a value is malformed, a profile ranks videos, no positive event comes before
            the cut, or no user followed a creator after it who was known before.
        UnknownProfile: there is no such profile or version.
        NotFound: there is no such file.
        BadData: a row is not in the format, or names an unknown user or video.
    """
    return evaluate_lists(
        source, _TASK, cutoff=cutoff, until=until, holdout=None, profiles=profiles,
        target=ENGAGED, sample=sample, scratch=scratch, seed=seed, settings=settings,
        progress=progress,
    )  # fmt: skip


def _check(_registry: Registry, name: str, profile: Profile) -> None:
    """Raise `InvalidValue` if a profile ranks videos."""
    if profile.name != PEOPLE:
        raise InvalidValue(f"profile: {name} ranks videos, not people: give {PEOPLE}")


def _listed(follower: Follower, profile: Profile) -> Sourced:
    """Return the first people of the list, with their sources."""
    page = people(
        follower.session, follower.user, limit=PAGE, profile=profile, as_of=follower.as_of,
        settings=follower.settings,
    )  # fmt: skip
    return [(item.creator, item.sources) for item in page.items]


def _others(_first: Profile) -> Mapping[str, Callable[[Follower], list[str]]]:
    """Return the lists to compare with."""
    return {
        "social": _followed_by_followed,
        "most followed": lambda follower: _best(follower, lambda each: each.viewers),
        "newest": lambda follower: _best(follower, lambda each: each.published_at),
        "random": _shuffled,
    }


def _followed_by_followed(follower: Follower) -> list[str]:
    """Return the creators whom most of those follow whom the user follows."""
    followed = aliased(Follow)
    ids = sa.select(followed.creator_id).where(followed.user_id == id_of(follower.user))
    rows = sa.select(Follow.creator_id).where(Follow.user_id.in_(ids))
    counts = Counter(follower.session.scalars(rows))
    return follower.first_new(sorted(counts, key=lambda row_id: (-counts[row_id], -row_id)))


def _best(follower: Follower, value: Callable[[Creator], object]) -> list[str]:
    """Return the creators with the highest value, ties with the newest row first."""
    creators = follower.creators
    ids = sorted(creators, key=lambda row_id: (value(creators[row_id]), row_id), reverse=True)
    return follower.first_new(ids)


def _shuffled(follower: Follower) -> list[str]:
    chance = Random(f"page {follower.user}")  # noqa: S311 - not for secrets
    ids = sorted(follower.creators)
    return follower.first_new(chance.sample(ids, len(ids)))


def _cases(
    session: Session, timeline: Timeline, _target: str, start: datetime, seed: int
) -> Cases[Follower]:
    """Return the users who followed someone later, with these creators."""
    creators = {each.creator: each for each in _creators(session, start)}
    keys = {each.key: each.creator for each in creators.values()}
    followed: dict[str, set[str]] = {}
    for row, _, _ in timeline.follows:
        if row["creator"] in keys:
            followed.setdefault(row["user"], set()).add(row["creator"])
    users = sorted(followed)
    Random(seed).shuffle(users)  # noqa: S311 - not for secrets

    def asked() -> Iterator[Asked[Follower]]:
        for user in users:
            known = _known(session, user)
            wanted = frozenset(key for key in followed[user] if keys[key] not in known)
            if wanted:
                settings = timeline.settings
                yield Asked(user, Follower(session, user, start, settings, creators, known), wanted)

    number = session.scalar(sa.select(sa.func.count()).select_from(User)) or 0
    return Cases({each.key: each for each in creators.values()}, number, asked())


def _creators(session: Session, as_of: datetime) -> Iterator[Creator]:
    """Yield the creators who have a video for everyone."""
    followers = sa.select(sa.func.count()).where(Follow.creator_id == User.id).scalar_subquery()
    newest = sa.func.max(Video.published_at)
    statement = (
        sa.select(User.key, User.id, sa.type_coerce(newest, Video.published_at.type), followers)
        .join(Video, Video.creator_id == User.id)
        .where(Video.status == "published", Video.published_at <= as_of)
        .group_by(User.id, User.key)
    )
    for key, row_id, published_at, number in session.execute(statement):
        yield Creator(key, row_id, published_at or UNDATED, number)


def _known(session: Session, user: str) -> frozenset[int]:
    """Return the row ids of a user and of those whom the user follows."""
    own = session.scalar(sa.select(id_of(user)))
    rows = session.scalars(sa.select(Follow.creator_id).where(Follow.user_id == own))
    return frozenset([*rows, *([] if own is None else [own])])


_TASK = ListTask(
    profile=PEOPLE,
    sources=lambda _registry: tuple(each.name for each in PEOPLE_SOURCES),
    check=_check,
    listed=_listed,
    others=_others,
    cases=_cases,
    nothing="no user followed a creator after the cut who had a video before it: choose another"
    " time",
)
