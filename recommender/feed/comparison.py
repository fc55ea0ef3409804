"""What two versions of profiles differ in: their weights, and the pages of users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from recommender.errors import InvalidValue
from recommender.feed.for_you import for_you
from recommender.feed.values import FeedPage
from recommender.formats import scalars
from recommender.ranking.profiles import get_profile
from recommender.ranking.request import DEFAULT_LIMIT
from recommender.settings import Settings


@dataclass(frozen=True, slots=True)
class ProfileDiff:
    """Two versions of profiles beside each other.

    Attributes:
        first, second: as ``name@version``.
        weights: of each signal that either weighs, both weights; 0 where one does not.
        pages: of each user asked for, the page of either.
    """

    first: str
    second: str
    weights: Mapping[str, tuple[float, float]]
    pages: Mapping[str, tuple[FeedPage, FeedPage]]


def diff_profiles(
    session: Session,
    first: str,
    second: str,
    *,
    users: Iterable[str] = (),
    limit: int = DEFAULT_LIMIT,
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> ProfileDiff:
    """The weights of two versions, and how the pages of some users change; nothing is served.

    Args:
        session: the caller's transaction.
        first: ``name`` or ``name@version``.
        second: the same.
        users: keys; a stranger has a page too.
        limit: how many videos a page has at most, 1 to 500.
        as_of: the reading time, with an offset; now where None.
        settings: the numbers that shape signals and sources; those of the environment where None.

    Raises:
        InvalidValue: a value is not of its form.
        UnknownProfile: there is no such profile or version.
    """
    if isinstance(users, str):
        raise InvalidValue(f"users: {scalars.shown(users)} is one key, not several")
    moment = scalars.now() if as_of is None else as_of
    both = get_profile(session, first), get_profile(session, second)

    def page(user: str, profile: str) -> FeedPage:
        return for_you(
            session, user, profile=profile, limit=limit, as_of=moment, record=False,
            settings=settings,
        )  # fmt: skip

    names = dict.fromkeys(name for profile in both for name in profile.weights)
    one, other = (profile.label for profile in both)
    return ProfileDiff(
        first=one,
        second=other,
        weights={name: (both[0].weights.get(name, 0.0), both[1].weights.get(name, 0.0))
                 for name in names},
        pages={user: (page(user, one), page(user, other)) for user in users},
    )  # fmt: skip
