"""Off-policy evaluation: estimate what another profile would have achieved, from served pages.

There are two parts. The estimate (`hindsight`) puts the videos of served pages into the order of
the new profile, see `off_policy_estimator`. The preview compares the next pages of the new profile
with the active profile's pages, for the same users. The outcomes of previewed pages are unknown.
"""

# Past pages cannot be previewed: the database has learned from the reactions to them.

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.database.transactions import long_transaction, translate_errors
from recommender.errors import InvalidValue
from recommender.evaluation import metrics
from recommender.evaluation.bootstrap import Interval, bootstrap, mean_of_sums
from recommender.evaluation.labels import target_values
from recommender.evaluation.log_cut import SAMPLE, check_sample
from recommender.evaluation.log_files import ENGAGED
from recommender.evaluation.log_replay import Progress, no_progress
from recommender.evaluation.off_policy_estimator import Expectation
from recommender.evaluation.off_policy_pages import LoggedPages
from recommender.evaluation.rankers import PAGE
from recommender.feed.feeds import get_feed
from recommender.feed.for_you import for_you
from recommender.feed.resolve import reading_time
from recommender.feed.values import FeedItem
from recommender.formats import scalars
from recommender.formats.plain import plain_fields
from recommender.models import Video
from recommender.models.tables import USERS
from recommender.ranking.profiles import get_profile, profile_history
from recommender.ranking.request import Profile
from recommender.settings import Settings
from recommender.telemetry import traced

_Page: TypeAlias = Sequence[FeedItem]


@dataclass(frozen=True, slots=True)
class PagePreview:
    """A summary of a profile's next pages.

    Attributes:
        profile: ``name@version``.
        overlap: the share of a page that is also on the active profile's page, 0 to 1, averaged
            over users; None if no user has a page.
        coverage: the share of the published videos that is on any page, 0 to 1.
        creator_gini: the Gini coefficient of creators' appearances, 0 to 1.
    """

    profile: str
    overlap: Interval | None
    coverage: float
    creator_gini: float


@dataclass(frozen=True, slots=True)
class ProfileReplay:
    """The off-policy evaluation of a profile. Every interval is over users.

    Attributes:
        profile: the evaluated profile, ``name@version``.
        feed: the name of the feed whose pages were evaluated; None for For You.
        active: the profile that serves now, in this feed or in For You.
        target: the outcomes with their values. A label is the value of a video's outcomes, as a
            share of the value of all outcomes.
        since, until: the bounds of the sessions' start; `until` is None if there is no end.
        learned_until: the profile was learned from events before this time; None if its weights
            were chosen by hand.
        users: the number of users with pages that could be reordered.
        pages: the number of these pages.
        left_out: the number of pages served without a signal that the profile weighs.
        not_recorded: these signals.
        hindsight: the logged and the expected labels of the first halves of pages.
        preview_users: the number of users whose next pages were compared.
        videos: the number of published videos, of the formats of the feed.
        previews: the profile's next pages, then the active profile's.
        seconds: the duration.
    """

    profile: str
    feed: str | None
    active: str
    target: Mapping[str, float]
    since: datetime
    until: datetime | None
    learned_until: datetime | None
    users: int
    pages: int
    left_out: int
    not_recorded: tuple[str, ...]
    hindsight: Expectation
    preview_users: int
    videos: int
    previews: tuple[PagePreview, ...]
    seconds: float

    @property
    def is_flattered(self) -> bool:
        """True if the profile was learned from some of the evaluated pages."""
        return self.learned_until is not None and self.since < self.learned_until

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation as JSON; an interval has a value, a low and a high end."""
        return plain_fields(self)


@traced
def replay_profile(
    engine: Engine,
    profile: str,
    *,
    since: datetime,
    until: datetime | None = None,
    feed: str | None = None,
    target: str | Mapping[str, float] = ENGAGED,
    sample: int = SAMPLE,
    as_of: datetime | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> ProfileReplay:
    """Estimate what a profile would have achieved on served pages. Read-only.

    Args:
        engine: a prepared engine, whose served pages are read.
        profile: the profile to evaluate, ``name`` or ``name@version``.
        since: sessions that began before this time are left out, with an offset.
        until: sessions that began at this time or later are left out.
        feed: the name of the feed whose pages are evaluated, in all its versions, each within its
            limits; None for For You.
        target: one of `TARGETS`, such as ``engaged`` or ``like``; or several with their
            values as ``engaged=1,like=3`` or a mapping.
        sample: the maximum number of users whose next pages are compared.
        as_of: the reading time of the next pages; now if None.
        seed: the random seed for the samples of users.
        settings: the settings to use; read from the environment if None.
        progress: called with the name of a stage, the amount done, and the total amount.

    Raises:
        InvalidValue: a value is malformed, or no page can be reordered.
        UnknownProfile: there is no such profile or version.
        UnknownFeed: there is no such feed, or it was deleted.
    """
    started = time.monotonic()
    settings = settings or Settings.from_environment()
    values, moment = target_values(target), reading_time(as_of)
    start, end = _bounds(since, until)
    check_sample(sample)
    report = progress or no_progress
    with (
        translate_errors(),
        engine.connect() as connection,
        long_transaction(connection, settings),
        Session(connection) as session,
    ):
        served = None if feed is None else get_feed(session, feed)
        candidate = get_profile(session, profile)
        active = get_profile(session, served.profile if served else None)
        log = LoggedPages(session, candidate, settings, sample, seed, feed)
        log.read(values, start, end, report)
        catalogue = _CatalogueSize.at(session, moment, served.formats if served else ())
        pages = [
            _pages(session, log.sampled, version, feed, moment, settings, report)
            for version in (candidate, active)
        ]
        return ProfileReplay(
            profile=candidate.label,
            feed=feed,
            active=active.label,
            target=values,
            since=start,
            until=until and end,
            learned_until=_learned_until(session, candidate),
            users=log.users,
            pages=log.pages,
            left_out=log.left_out,
            not_recorded=tuple(sorted(log.not_recorded)),
            hindsight=log.reordering.expectation(),
            preview_users=len(log.sampled),
            videos=catalogue.videos,
            previews=tuple(
                catalogue.preview(version.label, own, pages[1], seed)
                for version, own in zip((candidate, active), pages, strict=True)
            ),
            seconds=round(time.monotonic() - started, 3),
        )


def _bounds(since: datetime, until: datetime | None) -> tuple[datetime, datetime]:
    start, end = scalars.time(since), scalars.LATEST if until is None else scalars.time(until)
    if end <= start:
        raise InvalidValue(f"until: {scalars.written_time(end)} is not after since")
    return start, end


def _learned_until(session: Session, profile: Profile) -> datetime | None:
    """Return the time before which a version has learned; None if it was made by hand."""
    records = profile_history(session, profile.name)
    metrics_of = next(record.metrics for record in records if record.version == profile.version)
    learned = (metrics_of or {}).get("learned_until")
    return scalars.time(learned) if learned else None


@dataclass(frozen=True, slots=True)
class _CatalogueSize:
    """The number of published videos, and of their creators."""

    videos: int
    creators: int

    @classmethod
    def at(cls, session: Session, as_of: datetime, formats: Sequence[str]) -> _CatalogueSize:
        """Count the videos of some formats, or of all, and their creators at a reading time."""
        counts = sa.select(sa.func.count(), sa.func.count(Video.creator_id.distinct()))
        published = counts.where(Video.status == "published", Video.published_at <= as_of)
        if formats:
            published = published.where(Video.format.in_(formats))
        return cls(*session.execute(published.prefix_with("/* recommender.replay */")).one())

    def preview(
        self, profile: str, pages: Sequence[_Page], others: Sequence[_Page], seed: int
    ) -> PagePreview:
        """Return a summary of a profile's pages, compared with other pages of the same users."""
        creators = ([item.creator for item in page if item.creator] for page in pages)
        shown = metrics.exposure(creators)
        unseen = [0] * (self.creators - len(shown))
        lists = ([item.video for item in page] for page in pages)
        return PagePreview(
            profile=profile,
            overlap=bootstrap(
                [_common(*pair) for pair in zip(pages, others, strict=True)],
                mean_of_sums,
                seed=seed,
            ),
            coverage=metrics.coverage(lists, max(1, self.videos)),
            creator_gini=metrics.gini([*shown.values(), *unseen]),
        )


def _pages(
    session: Session,
    users: Sequence[int],
    profile: Profile,
    feed: str | None,
    as_of: datetime,
    settings: Settings,
    report: Progress,
) -> list[_Page]:
    """Return the next pages of users, who are given by their row ids."""
    viewers = lookup.find(
        session, [USERS.c.id], [(user,) for user in users], [USERS.c.id, USERS.c.key]
    )
    pages: list[_Page] = []
    for _, key in sorted(viewers):
        page = for_you(
            session, key, limit=PAGE, profile=profile.label, feed=feed, as_of=as_of, record=False,
            settings=settings,
        )  # fmt: skip
        pages.append(page.items)
        report(f"pages of {profile.label}", len(pages), len(viewers))
    return pages


def _common(page: _Page, other: _Page) -> tuple[float, float]:
    """Return the share of the longer page that is on both, and 1 to count the pair."""
    longest = max(len(page), len(other))
    same = {item.video for item in page} & {item.video for item in other}
    return (len(same) / longest, 1.0) if longest else (0.0, 0.0)
