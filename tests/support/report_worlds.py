"""Random logs of served pages, and the figures of a report computed from their rows in Python."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import run_transaction
from recommender.formats.scalars import LIST_SEPARATOR
from recommender.models import (
    ExperimentRow,
    FeedSession,
    FeedVersion,
    Interaction,
    ProfileVersion,
    ProfileWeight,
    ServedVideo,
    User,
    Video,
)
from recommender.reports.values import Outcomes

UNTIL = datetime.fromisoformat("2026-02-10T06:00:00+00:00")
LENGTH = timedelta(days=5)
SINCE, BEFORE = UNTIL - LENGTH, UNTIL - 2 * LENGTH

HOSTILE = (
    "<script>alert(1)</script>", "\u202eevil\u202c", "שלום עולם", "🎉👩‍👩‍👧‍👧", "a&amp;b\"'`",
    "x" * 200, "line\nbreak\x07", "{{ 7 * 7 }}{% raw %}", "--><svg onload=alert(1)>",
)  # fmt: skip

SOURCES = ("newest", "hashtags", "trending", "<b>outside")


def write_world(engine: Engine, *, seed: int = 1, users: int = 12, sessions: int = 8) -> None:
    """Write users, videos, pages and states at random, of two profiles and a feed with a name."""
    chance = Random(seed)  # noqa: S311 - not for secrets

    def write(session: Session) -> None:
        names = [f"user {n} {HOSTILE[n % len(HOSTILE)]}"[:200] for n in range(users)]
        recommender.upsert_users(session, [{"id": name} for name in names])
        videos = [
            {"id": f"v{n} {HOSTILE[n % len(HOSTILE)]}"[:200], "caption": HOSTILE[n % len(HOSTILE)],
             "hashtags": [f"tag{n % 3}", f"tag{n % 5}"][: n % 3],
             "published_at": BEFORE + timedelta(hours=5 * n)}
            | ({"creator": f"maker {n % 4} {HOSTILE[n % 4]}"} if n % 6 else {"creator": None})
            for n in range(40)
        ]  # fmt: skip
        recommender.upsert_videos(session, videos)
        recommender.create_profile(session, "other", {"freshness": 2.0, "quality": -1.0})
        recommender.create_feed(session, "reels", memory="own")
        recommender.start_experiment(session, "warmer", ["other"], guardrails=["page_time"])
        session.execute(sa.update(ExperimentRow).values(started_at=SINCE))
        _write_pages(session, chance, sessions)

    run_transaction(engine, write)


def _write_pages(session: Session, chance: Random, sessions: int) -> None:
    profiles = session.scalars(
        sa.select(ProfileVersion.id).where(ProfileVersion.name.in_(["for_you", "other"]))
    ).all()
    feed = session.scalars(sa.select(FeedVersion.id)).one()
    own = sa.select(User.id).where(User.key.startswith("user "))
    viewers = session.scalars(own.order_by(User.id)).all()
    videos = session.scalars(sa.select(Video.id).order_by(Video.id)).all()
    for user in viewers:
        shown: set[int] = set()
        for _ in range(chance.randrange(sessions + 1)):
            began = _moment(chance)
            size = chance.randrange(1, 25)
            own = {
                "user_id": user, "session": UUID(int=chance.getrandbits(128)),
                "rewatch": chance.random() < 0.2, "started_at": began, "last_at": began,
                "next_position": size + 1, "seen_until": chance.randrange(size + 1),
                "feed_id": feed if chance.random() < 0.3 else None,
                "pages": chance.choice([0, 1 + (size - 1) // 10]), "exhausted": chance.randrange(2),
                "milliseconds": chance.randrange(500),
            }  # fmt: skip
            session.add(FeedSession(**own))
            session.flush()
            page = 1
            profile = chance.choice(profiles)
            for position, video in enumerate(chance.sample(videos, size), start=1):
                page = position if position in {1, 11, 21} else page
                signals = {"freshness": chance.random(), "own": [chance.random(), 0.5]}
                place = ServedVideo(
                    user_id=user, session=own["session"], position=position, video_id=video,
                    page=page, asked=10, served_at=began, profile_id=profile, score_key=0,
                    sources=LIST_SEPARATOR.join(chance.sample(SOURCES, chance.randrange(4))),
                    explored=chance.random() < 0.2, crowded=False, signals=signals,
                )  # fmt: skip
                session.add(place)
                shown.add(video)
            session.flush()
        for video in chance.sample(sorted(shown), len(shown) // 2):
            first = _moment(chance)
            session.add(
                Interaction(
                    user_id=user,
                    video_id=video,
                    impressions=chance.randrange(2),
                    first_at=first,
                    last_at=first,
                    engaged_at=first if chance.random() < 0.5 else None,
                )
            )
    session.flush()


def _moment(chance: Random) -> datetime:
    """Return a time in or around a report's, often at the edge of a day."""
    edges = [SINCE, BEFORE, UNTIL, SINCE.replace(hour=0), SINCE.replace(hour=12)]
    if chance.random() < 0.3:
        return chance.choice([SINCE, BEFORE, UNTIL])
    if chance.random() < 0.3:
        shift = chance.choice([-1, 0, 1])
        days = timedelta(days=chance.randrange(5))
        return chance.choice(edges) + days + timedelta(microseconds=shift)
    return BEFORE + timedelta(seconds=chance.randrange(-86_400, 11 * 86_400))


@dataclass(frozen=True)
class Place:
    """A row of the log with its session, and what became of it."""

    row: Any
    session: Any
    looked: bool
    enjoyed: bool


def every_place(session: Session) -> list[Place]:
    """Return all places, with their outcome by the rule in the README of evaluation."""
    sessions = {(one.user_id, one.session): one for one in session.scalars(sa.select(FeedSession))}
    states = {(one.user_id, one.video_id): one for one in session.scalars(sa.select(Interaction))}
    rows = session.scalars(sa.select(ServedVideo)).all()
    of_video: dict[tuple[int, int], list[Any]] = defaultdict(list)
    for row in rows:
        of_video[row.user_id, row.video_id].append(row)
    last = {
        key: max(
            (
                row
                for row in of_video[key]
                if row.served_at - state.first_at <= timedelta(minutes=5)
            ),
            key=lambda row: (row.served_at, row.session),
            default=None,
        )
        for key, state in states.items()
    }
    places = []
    for row in rows:
        own, key = sessions[row.user_id, row.session], (row.user_id, row.video_id)
        has_outcome = last.get(key) is row
        looked = not own.rewatch and (has_outcome or row.position <= own.seen_until)
        enjoyed = looked and has_outcome and states[key].engaged_at is not None
        places.append(Place(row, own, looked, enjoyed))
    return places


def outcomes(places: Iterable[Place]) -> Outcomes:
    """Return the sums over places, without the share."""
    found = list(places)
    return Outcomes(
        places=len(found),
        pages=sum(place.row.page == place.row.position for place in found),
        users=len({place.row.user_id for place in found}),
        judged=sum(not place.session.rewatch for place in found),
        looked=sum(place.looked for place in found),
        enjoyed=sum(place.enjoyed for place in found),
    )


def interval(places: Iterable[Place]) -> tuple[float, float, float] | None:
    """Return the share of looked-at places that were enjoyed, with its interval over users."""
    sums: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for place in places:
        sums[place.row.user_id][0] += place.looked
        sums[place.row.user_id][1] += place.enjoyed
    looked = sum(one for one, _ in sums.values())
    if not looked:
        return None
    share = sum(other for _, other in sums.values()) / looked
    rest = math.fsum((other - share * one) ** 2 for one, other in sums.values())
    half = 1.959964 * math.sqrt(rest * len(sums) / max(1, len(sums) - 1)) / looked
    return share, max(0.0, share - half), min(1.0, share + half)


def grouped(places: Iterable[Place], key: Callable[[Place], Any]) -> Mapping[Any, Sequence[Place]]:
    """Return the places by a key."""
    groups: dict[Any, list[Place]] = defaultdict(list)
    for place in places:
        groups[key(place)].append(place)
    return groups


def weights(session: Session) -> Mapping[int, Mapping[str, float]]:
    """Return the weights of each profile."""
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for row in session.scalars(sa.select(ProfileWeight)):
        found[row.profile_id][row.signal] = row.weight
    return found
