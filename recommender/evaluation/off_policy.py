"""What a profile would have served to those who came, before anybody is shown its pages.

Two looks at it. In hindsight: pages that were served, in the order that the candidate gives to the
same videos, and what their first halves would have led to (`counterfactual`). And as a preview: the
pages that it would serve to the same people at the reading time, beside those of the active
profile; what they would lead to, nobody knows. That of the past cannot be previewed: the database
knows by now what people did with it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.database.transactions import long_transaction, translate_errors
from recommender.errors import InvalidValue
from recommender.evaluation import metrics
from recommender.evaluation.bootstrap import Interval, bootstrap
from recommender.evaluation.evaluate import SAMPLE, check_sample, plain_figures
from recommender.evaluation.labels import target_values
from recommender.evaluation.log_replay import ENGAGED, Progress
from recommender.evaluation.off_policy_estimator import Expectation
from recommender.evaluation.off_policy_pages import Hindsight
from recommender.evaluation.rankers import PAGE
from recommender.feed.for_you import for_you
from recommender.feed.resolve import reading_time
from recommender.feed.values import FeedItem
from recommender.formats import scalars
from recommender.models import Video
from recommender.models.tables import USERS
from recommender.ranking.profiles import get_profile, profile_history
from recommender.ranking.request import Profile
from recommender.settings import Settings

_Page: TypeAlias = Sequence[FeedItem]


@dataclass(frozen=True, slots=True)
class PagePreview:
    """What a profile's next pages would be like.

    Attributes:
        profile: ``name@version``.
        overlap: the part of a page that is on the active profile's too, 0 to 1, over users; None
            where nobody has a page.
        coverage: the part of the published videos that is on any page, 0 to 1.
        creator_gini: how unequally the creators of these are shown, 0 to 1.
    """

    profile: str
    overlap: Interval | None
    coverage: float
    creator_gini: float


@dataclass(frozen=True, slots=True)
class ProfileReplay:
    """What a candidate would have served; every interval is over users.

    Attributes:
        profile: the candidate, ``name@version``.
        active: the profile that serves now.
        target: the outcomes with their values; a label is the value of what a video led to, as a
            part of the value of all.
        since, until: sessions that began within were looked at; None where there is no end.
        learned_until: what came before it the candidate has learned from; None where its weights
            were chosen by hand.
        users: who were shown what could be put into another order.
        pages: on how many pages.
        left_out: pages that could not be, since they were not recorded with all that the candidate
            weighs.
        not_recorded: the signals that were not.
        hindsight: what the first halves of these pages led to, and would have.
        preview_users: of how many users the next pages were looked at.
        videos: how many are published.
        previews: the candidate's pages, then the active profile's.
        seconds: how long it took.
    """

    profile: str
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
        """Whether the candidate has learned from some of what it was replayed on."""
        return self.learned_until is not None and self.since < self.learned_until

    def as_dict(self) -> dict[str, Any]:
        """The replay as `replay` prints it; an interval has a value, a low and a high end."""
        plain = asdict(self)
        for name in ("since", "until", "learned_until"):
            plain[name] = plain[name] and scalars.written_time(plain[name])
        plain["not_recorded"] = list(self.not_recorded)
        plain["hindsight"] = plain_figures(plain["hindsight"])
        plain["previews"] = [plain_figures(row) for row in plain["previews"]]
        return plain


def replay_profile(
    engine: Engine,
    profile: str,
    *,
    since: datetime,
    until: datetime | None = None,
    target: str | Mapping[str, float] = ENGAGED,
    sample: int = SAMPLE,
    as_of: datetime | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> ProfileReplay:
    """Say what a profile would have served to those who came; nothing is written.

    Args:
        engine: a prepared engine, whose served pages are read.
        profile: the candidate, ``name`` or ``name@version``.
        since: sessions that began before it are left out, with an offset.
        until: as well as those that began then or later.
        target: what is hoped for: ``engaged``, ``like``, ``share``, ``save`` or ``comment``, or
            several with their values as ``engaged=1,like=3``, or these as a mapping.
        sample: of how many of those who came the next pages are looked at, at most.
        as_of: the reading time of these; now where None.
        seed: what the sample of users, and those that intervals are of, depend on.
        settings: those of the environment where None.
        progress: called with the name of a stage, how much of it is done, and of how much.

    Raises:
        InvalidValue: a value is not of its form, or no page can be put into another order.
        UnknownProfile: there is no such profile or version.
    """
    started = time.monotonic()
    settings = settings or Settings.from_environment()
    values, moment = target_values(target), reading_time(as_of)
    start, end = _bounds(since, until)
    check_sample(sample)
    report = progress or _silent
    with (
        translate_errors(),
        engine.connect() as connection,
        long_transaction(connection, settings),
        Session(connection) as session,
    ):
        candidate, active = get_profile(session, profile), get_profile(session)
        log = Hindsight(session, candidate, settings, sample, seed)
        log.read(values, start, end, report)
        shelf = _Shelf.at(session, moment)
        pages = [
            _pages(session, log.sampled, each, moment, settings, report)
            for each in (candidate, active)
        ]
        return ProfileReplay(
            profile=candidate.label,
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
            videos=shelf.videos,
            previews=tuple(
                shelf.preview(each.label, own, pages[1], seed)
                for each, own in zip((candidate, active), pages, strict=True)
            ),
            seconds=round(time.monotonic() - started, 3),
        )


def _silent(_stage: str, _done: int, _total: int) -> None:
    """No progress is wanted."""


def _bounds(since: datetime, until: datetime | None) -> tuple[datetime, datetime]:
    start, end = scalars.time(since), scalars.LATEST if until is None else scalars.time(until)
    if end <= start:
        raise InvalidValue(f"until: {scalars.written_time(end)} is not after since")
    return start, end


def _learned_until(session: Session, profile: Profile) -> datetime | None:
    """What came before it a version has learned from; None where it was made by hand."""
    records = profile_history(session, profile.name)
    metrics_of = next(each.metrics for each in records if each.version == profile.version)
    learned = (metrics_of or {}).get("learned_until")
    return scalars.time(learned) if learned else None


@dataclass(frozen=True, slots=True)
class _Shelf:
    """How many videos are published, and how many creators have any."""

    videos: int
    creators: int

    @classmethod
    def at(cls, session: Session, as_of: datetime) -> _Shelf:
        """What there is at a reading time."""
        counts = sa.select(sa.func.count(), sa.func.count(Video.creator_id.distinct()))
        published = counts.where(Video.status == "published", Video.published_at <= as_of)
        return cls(*session.execute(published.prefix_with("/* recommender.replay */")).one())

    def preview(
        self, profile: str, pages: Sequence[_Page], others: Sequence[_Page], seed: int
    ) -> PagePreview:
        """The figures of a profile's pages, beside another's of the same users."""
        shown = metrics.exposure([item.creator for item in page] for page in pages)
        unseen = [0] * (self.creators - len(shown))
        lists = ([item.video for item in page] for page in pages)
        return PagePreview(
            profile=profile,
            overlap=bootstrap(
                [_common(*pair) for pair in zip(pages, others, strict=True)], _mean, seed=seed
            ),
            coverage=metrics.coverage(lists, max(1, self.videos)),
            creator_gini=metrics.gini([*shown.values(), *unseen]),
        )


def _pages(
    session: Session,
    users: Sequence[int],
    profile: Profile,
    as_of: datetime,
    settings: Settings,
    report: Progress,
) -> list[_Page]:
    """The next page of each of some users, who are given by their rows."""
    found = lookup.find(
        session, [USERS.c.id], [(user,) for user in users], [USERS.c.id, USERS.c.key]
    )
    pages: list[_Page] = []
    for _, key in sorted(found):
        page = for_you(
            session, key, limit=PAGE, profile=profile.label, as_of=as_of, record=False,
            settings=settings,
        )  # fmt: skip
        pages.append(page.items)
        report(f"pages of {profile.label}", len(pages), len(found))
    return pages


def _common(page: _Page, other: _Page) -> tuple[float, float]:
    """The part of the longer page that is on both, and how many pages that is."""
    longest = max(len(page), len(other))
    same = {item.video for item in page} & {item.video for item in other}
    return (len(same) / longest, 1.0) if longest else (0.0, 0.0)


def _mean(sums: Sequence[float]) -> float | None:
    total, count = sums
    return total / count if count else None
