"""Two profiles compared: their weights, and the pages of some users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from recommender.database.session import Session
from recommender.errors import InvalidValue
from recommender.feed.for_you import for_you
from recommender.feed.values import FeedPage
from recommender.formats import scalars
from recommender.formats.scalars import AnyKey
from recommender.ranking.profiles import get_profile
from recommender.ranking.request import DEFAULT_LIMIT, Profile
from recommender.settings import Settings
from recommender.telemetry import traced


@dataclass(frozen=True, slots=True)
class ProfileDiff:
    """Two versions of profiles, compared.

    Attributes:
        first, second: as ``name@version``.
        weights: each signal's two weights; 0 if a version has none for it.
        pages: each user's two pages.
    """

    first: str
    second: str
    weights: Mapping[str, tuple[float, float]]
    pages: Mapping[str, tuple[FeedPage, FeedPage]]

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as `profiles diff --format json` prints it."""
        return {
            "first": self.first,
            "second": self.second,
            "weights": [
                {"signal": name, self.first: one, self.second: other, "change": other - one}
                for name, (one, other) in self.weights.items()
            ],
            "pages": {user: _positions(*both) for user, both in self.pages.items()},
        }


def _positions(one: FeedPage, other: FeedPage) -> list[dict[str, Any]]:
    """Return the videos' positions on both pages, None if absent."""
    was = {item.video: item.position for item in one.items}
    now = {item.video: item.position for item in other.items}
    return [
        {"#": now.get(video), "was": was.get(video), "video": video}
        for video in dict.fromkeys([*now, *was])
    ]


@traced
def diff_profiles(
    session: Session,
    first: str,
    second: str,
    *,
    users: Iterable[AnyKey] = (),
    limit: int = DEFAULT_LIMIT,
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> ProfileDiff:
    """Return the weights of two versions, and previews of some users' pages with each of them.

    Args:
        session: the caller's transaction.
        first: ``name`` or ``name@version``.
        second: the same.
        users: the users' keys; an unknown user has a page too.
        limit: the maximum number of videos of a page, 1 to 500.
        as_of: the reading time, with an offset; None for now.
        settings: the numbers that shape signals and sources; None for the environment's.

    Raises:
        InvalidValue: a value has the wrong form.
        UnknownProfile: the profile or version does not exist.
    """
    if isinstance(users, str):
        raise InvalidValue(f"users: {scalars.shown(users)} is one key, not several")
    keys = [scalars.parse_named("user", scalars.key, user) for user in users]
    moment = scalars.now() if as_of is None else as_of
    one, other = get_profile(session, first), get_profile(session, second)
    preview = partial(for_you, session, limit=limit, as_of=moment, record=False, settings=settings)
    return ProfileDiff(
        first=one.label,
        second=other.label,
        weights=_weights(one, other),
        pages={
            user: (preview(user, profile=one.label), preview(user, profile=other.label))
            for user in keys
        },
    )


def _weights(one: Profile, other: Profile) -> dict[str, tuple[float, float]]:
    names = dict.fromkeys([*one.weights, *other.weights])
    return {name: (one.weights.get(name, 0.0), other.weights.get(name, 0.0)) for name in names}
