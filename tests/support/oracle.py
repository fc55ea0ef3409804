"""Random worlds, and what the formula, the filters and the sources say of them in plain Python."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender import Event, Settings
from recommender.feed.resolve import SEEDS
from recommender.formats import scalars, text
from recommender.models import Base
from recommender.models.tables import HASHTAGS, SOUNDS, USERS, VIDEOS
from recommender.ranking.sources import SCAN_FACTOR, SHUFFLE_STEP
from recommender.ranking.viewer import CYCLE
from tests.support.positives import Deed, is_rejected_by, positive_times
from tests.support.worlds import NOON, at, follow, mute

TAGS = ("cats", "dance", "food", "music", "news", "sport")
SONGS = ("s0", "s1", "s2", "s3")
CREATORS = ("c0", "c1", "c2", "c3", "c4", "u0", "u1")
VIEWERS = ("u0", "u1", "u2", "u3")
WORDS = ("cat", "catalogue", "dog", "look", "so", "spam", "well", "мир", "今天")
KINDS = (
    "impression", "watch", "watch", "watch", "like", "unlike", "share", "comment", "save", "unsave",
    "not_interested", "report", "convert", "interested",
)  # fmt: skip
MUTES = (
    ("creator", "c1"), ("creator", "c2"), ("hashtag", "news"), ("hashtag", "sport"),
    ("sound", "s1"), ("keyword", "cat"), ("keyword", "so well"), ("keyword", "МИР"),
)  # fmt: skip
Row = dict[str, Any]


@dataclass
class World:
    """Everything that a feed depends on; the order of the videos is that of their ids."""

    users: dict[str, Row]
    videos: dict[str, Row]
    owners: dict[str, str] = field(default_factory=dict)
    follows: set[tuple[str, str]] = field(default_factory=set)
    mutes: set[tuple[str, str, str]] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)
    affinities: dict[tuple[str, str, str], float] = field(default_factory=dict)
    neighbours: dict[tuple[str, str], float] = field(default_factory=dict)
    recent: dict[tuple[str, str], datetime] = field(default_factory=dict)
    terms: dict[str, int] = field(default_factory=dict)
    state: Row = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)


def random_world(seed: int, videos: int = 40) -> World:
    """Few values and many videos, so that what can happen to two videos happens."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    world = World(
        users={key: _user(chance, number) for number, key in enumerate(VIEWERS)},
        videos={f"v{number}": _video(chance) for number in range(videos)},
        owners={song: chance.choice(CREATORS) for song in SONGS if chance.random() < 0.5},
        follows={
            (user, creator)
            for user in VIEWERS[:-1]
            for creator in (chance.choice(CREATORS), chance.choice(CREATORS))
            if creator != user
        },
        mutes={(user, *each) for user in VIEWERS for each in MUTES if chance.random() < 0.15},
        state={
            "landmark": NOON - timedelta(days=chance.uniform(-90, 90)),
            "creator_half_life_days": chance.uniform(14, 60),
            "hashtag_half_life_days": chance.uniform(14, 60),
            "sound_half_life_days": chance.uniform(14, 60),
            "trend_half_life_days": chance.uniform(0.5, 9),
            "engaged_share": chance.random(),
            "captions": chance.choice([0, 10, 100, 1_000]),
            "trend_peak": chance.choice([None, chance.uniform(-20, 20)]),
        },
        terms={word: chance.randrange(12) for word in WORDS if chance.random() < 0.8},
    )
    keys = list(world.videos)
    world.events = [_event(chance, number, keys) for number in range(videos)]
    subjects = {"creator": CREATORS, "hashtag": TAGS, "sound": SONGS}
    world.affinities = {
        (user, subject, name): chance.uniform(-3, 5)
        for user in VIEWERS[:-1]
        for subject, names in subjects.items()
        for name in names
        if chance.random() < 0.6
    }
    pairs = [(chance.choice(keys), chance.choice(keys)) for _ in range(4 * videos)]
    world.neighbours = {pair: chance.random() for pair in pairs if pair[0] != pair[1]}
    world.recent = {
        (chance.choice(CREATORS), chance.choice(keys)): at(chance.choice([5, 0, -1, -60, -1_440]))
        for _ in range(videos)
    }
    return world


def _user(chance: random.Random, number: int) -> Row:
    return {
        "language": chance.choice([None, "en", "es"]),
        "country": chance.choice([None, "US", "MX"]),
        "device": chance.choice([None, "phone", "desktop", "Phone", "ios"]),
        "interests": chance.sample(TAGS, chance.randrange(3)),
        "liked_sounds": chance.sample(SONGS, chance.randrange(3)),
        "learned_since": at(-30) if number == 1 else None,
    }


def _video(chance: random.Random) -> Row:
    viewers = chance.choice([0, 0, 5, 99, 100, 5_000])
    return {
        "creator": chance.choice([None, *CREATORS]),
        "published_at": _published_at(chance),
        "status": chance.choice(["published"] * 9 + ["review", "removed"]),
        "hashtags": chance.sample(TAGS, chance.randrange(4)),
        "sound": chance.choice([None, *SONGS]),
        "caption": " ".join(chance.choices(WORDS, k=chance.randrange(6))) or None,
        "language": chance.choice([None, "en", "es"]),
        "country": chance.choice([None, "US", "MX"]),
        "orientation": chance.choice([None, *scalars.ORIENTATIONS]),
        "duration_ms": chance.choice([None, 9_000, 60_000]),
        "impressions": viewers,
        "engaged_views": int(viewers * chance.random()),
        "trending": chance.choice([None, chance.uniform(-40, 60)]),
    }


def _published_at(chance: random.Random) -> datetime | None:
    minutes = chance.choice([5, 0, -1, -60, -60 * 24, -60 * 24 * 9, None])
    return None if minutes is None else at(minutes - chance.random())


def dated(video: Row) -> datetime:
    """When a video was published; before all others if that is unknown."""
    return video["published_at"] or scalars.UNDATED


def _event(chance: random.Random, number: int, videos: list[str]) -> Event:
    kind = chance.choice(KINDS)
    return Event(
        key=f"e{number}",
        user=chance.choice(VIEWERS[:-1]),
        video=videos[int(len(videos) * chance.random() ** 2)],
        kind=kind,
        at=at(-chance.randrange(60)),
        watch_ms=chance.choice([None, 1_000, 20_000]) if kind == "watch" else None,
        completion=chance.choice([None, 0.0, 0.3, 1.0]) if kind == "watch" else None,
    )


STATISTICS = ("impressions", "engaged_views", "trending")
DERIVED = ("affinities", "video_neighbours", "recent_engagements", "terms")


def table(name: str) -> sa.Table:
    return Base.metadata.tables[f"rec_{name}"]


def put(session: Session, name: str, rows: list[Row]) -> None:
    """Rows written into a table as they are."""
    if rows:
        session.execute(table(name).insert(), rows)


def ids(session: Session, of: sa.Table) -> dict[str, int]:
    name = of.c.name if of is HASHTAGS else of.c.key
    return {key: row_id for key, row_id in session.execute(sa.select(name, of.c.id))}  # noqa: C416


def load(session: Session, world: World) -> None:
    """Write a world through the front door, and what is derived directly."""
    recommender.upsert_users(session, [
        {"id": key, **{n: v for n, v in row.items() if n != "learned_since"}}
        for key, row in world.users.items()
    ])  # fmt: skip
    recommender.upsert_videos(session, [
        {"id": key, **{n: v for n, v in row.items() if n not in STATISTICS}}
        for key, row in world.videos.items()
    ])  # fmt: skip
    for user, creator in sorted(world.follows):
        follow(session, user, creator)
    for user, kind, value in sorted(world.mutes):
        mute(session, user, kind, value)
    recommender.record_many(session, world.events)
    _load_derived(session, world)


def _load_derived(session: Session, world: World) -> None:
    for name in DERIVED:
        session.execute(table(name).delete())
    of = {"creator": ids(session, USERS), "sound": ids(session, SOUNDS)}
    of["hashtag"] = ids(session, HASHTAGS)
    videos = world.rows = ids(session, VIDEOS)
    for key, row in world.videos.items():
        changed = {name: row[name] for name in STATISTICS}
        session.execute(VIDEOS.update().where(VIDEOS.c.key == key).values(changed))
    for song, owner in world.owners.items():
        if song in of["sound"] and owner in of["creator"]:
            owned = SOUNDS.update().where(SOUNDS.c.key == song)
            session.execute(owned.values(creator_id=of["creator"][owner]))
    for key, row in world.users.items():
        changed = {"learned_since": row["learned_since"]}
        session.execute(USERS.update().where(USERS.c.key == key).values(changed))
    put(session, "affinities", [
        {"user_id": of["creator"][u], "subject": s, "subject_id": of[s][name], "score": score}
        for (u, s, name), score in world.affinities.items() if name in of[s]
    ])  # fmt: skip
    put(session, "video_neighbours", [
        {"source_id": videos[i], "video_id": videos[j], "similarity": similarity}
        for (i, j), similarity in world.neighbours.items()
    ])  # fmt: skip
    put(session, "recent_engagements", [
        {"user_id": of["creator"][user], "video_id": videos[video], "at": moment}
        for (user, video), moment in world.recent.items() if user in of["creator"]
    ])  # fmt: skip
    counted = {term: n for word, n in world.terms.items() for term in terms_of(word)}
    put(session, "terms", [{"term": term, "captions": n} for term, n in counted.items()])
    session.execute(table("learning_state").update().values(world.state))


def terms_of(caption: str | None) -> tuple[int, ...]:
    return text.terms(text.words(caption or ""))


def saturated(value: float, half: float = 1.0) -> float:
    return value / (half + abs(value))


@dataclass
class Oracle:
    """What one viewer of a world is shown, worked out one video at a time."""

    world: World
    user: str
    as_of: datetime = NOON
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        self.viewer: Row = self.world.users.get(self.user, {})
        self.order = {key: number for number, key in enumerate(self.world.videos)}
        self.followed = {creator for user, creator in self.world.follows if user == self.user}
        self.wanted = self.followed - self.muted("creator")
        self.deeds: dict[str, list[Event]] = {}
        for each in self.world.events:
            if each.user == self.user:
                self.deeds.setdefault(each.video, []).append(each)
        self.recent = self._recent()
        self.near: dict[str, float] = {}
        for (source, video), similarity in self.world.neighbours.items():
            if source in self.recent:
                found = self.near.get(video, 0.0) + similarity * self.recent[source]
                self.near[video] = found
        self.rarity = self._rarity()

    def latest(self, video: str, *kinds: str) -> datetime | None:
        times = [each.at for each in self.deeds.get(video, ()) if each.kind in kinds]
        return max(times, default=None)

    def is_on(self, video: str, on: str, off: str) -> bool:
        turned_on, turned_off = self.latest(video, on), self.latest(video, off)
        return turned_on is not None and (turned_off is None or turned_on > turned_off)

    def parts(self, video: str) -> list[float]:
        """The parts of a video that were watched."""
        duration = self.world.videos[video]["duration_ms"]
        found = []
        for each in self.deeds.get(video, ()):
            if each.kind == "watch" and each.completion is not None:
                found.append(each.completion)
            elif each.kind == "watch" and each.watch_ms is not None and duration:
                found.append(min(1.0, each.watch_ms / duration))
        return found

    def _positive_since(self, video: str) -> datetime | None:
        """The time since which the viewer's state with the video is positive."""
        duration = self.world.videos[video]["duration_ms"]
        return max(positive_times(self._deeds_of(video), duration), default=None)

    def _deeds_of(self, video: str) -> list[Deed]:
        deeds = self.deeds.get(video, ())
        return [Deed(each.kind, each.at, each.watch_ms, each.completion) for each in deeds]

    def _recent(self) -> dict[str, float]:
        since = self.viewer.get("learned_since")
        engaged: list[tuple[datetime, int, str]] = []
        for video in self.deeds:
            at = self._positive_since(video)
            if at is not None and (since is None or at > since):
                engaged.append((at, self.order[video], video))
        engaged.sort(reverse=True)
        scale = self.settings.history_scale
        newest = engaged[: self.settings.history]
        return {video: scale / (scale + number) for number, (_, _, video) in enumerate(newest)}

    def lately(self, tag: str) -> float:
        """How much more of the hashtag than usual the viewer engaged with, smoothed."""
        settings, world = self.settings, self.world
        outcomes = [
            outcome for video, outcome in self._seen() if tag in world.videos[video]["hashtags"]
        ]
        usual = world.state["engaged_share"] * len(outcomes)
        return (sum(outcomes) - usual) / (settings.lately_prior + len(outcomes))

    def _seen(self) -> list[tuple[str, int]]:
        """The videos seen last: 1 where the viewer engaged with it, -1 where they rejected it."""
        since = self.viewer.get("learned_since") or scalars.EARLIEST
        seen = []
        for video, deeds in self.deeds.items():
            positive_since = self._positive_since(video)
            engaged = positive_since is not None and positive_since > since
            is_rejected = is_rejected_by(self._deeds_of(video))
            last = max(each.at for each in deeds)
            if last > since:
                seen.append((last, self.order[video], video, -1 if is_rejected else int(engaged)))
        newest = sorted(seen, reverse=True)[: self.settings.seen_lately]
        return [(video, outcome) for _, _, video, outcome in newest]

    def _rarity(self) -> dict[int, float]:
        common = max(1.0, self.world.state["captions"] * self.settings.common_term)
        counted = {term: n for word, n in self.world.terms.items() for term in terms_of(word)}
        return {
            term: 1 - counted[term] / common
            for video in self.recent
            for term in terms_of(self.world.videos[video]["caption"])
            if term in counted and counted[term] < common
        }

    def half_lives(self, subject: str) -> float:
        state = self.world.state
        days = (self.as_of - state["landmark"]) / timedelta(days=1)
        return float(days / state[f"{subject}_half_life_days"])

    def trend_scale(self) -> float:
        """The trend that counts half."""
        peak = self.world.state["trend_peak"]
        faded = 0.0 if peak is None else 2 ** max(-500, min(500, peak - self.half_lives("trend")))
        return max(self.settings.trend_scale, self.settings.trend_peak_share * faded)

    def affinity(self, subject: str, *names: str | None) -> float:
        """What the viewer's affinities to some subjects are together, today."""
        found = self.world.affinities
        stored = math.fsum(found.get((self.user, subject, name or ""), 0.0) for name in names)
        return saturated(stored * 2 ** -self.half_lives(subject), self.settings.affinity_scale)

    def signals(self, key: str) -> dict[str, float]:
        """The value of each signal of a video."""
        video, viewer, settings = self.world.videos[key], self.viewer, self.settings
        kinds = [each.kind for each in self.deeds.get(key, ())]
        trial, prior = settings.trial_viewers, settings.quality_prior
        engaged = video["engaged_views"] + prior * self.world.state["engaged_share"]
        trend = video["trending"]
        age = max(0.0, (self.as_of - dated(video)) / timedelta(days=1))
        freshness = 2 ** -min(1000, age / settings.freshness_half_life)
        terms = math.fsum(self.rarity.get(term, 0.0) for term in terms_of(video["caption"]))
        return {
            "completion": max(self.parts(key), default=0.0),
            "likes": float(self.is_on(key, "like", "unlike")),
            "shares": float(kinds.count("share")),
            "follows": float(video["creator"] in self.followed),
            "hashtags": float(len(set(video["hashtags"]) & set(viewer.get("interests", ())))),
            "sound": float(video["sound"] in viewer.get("liked_sounds", ())),
            "language": float(self._same(video, "language")),
            "country": float(self._same(video, "country")),
            "comments": float(kinds.count("comment")),
            "saves": float(self.is_on(key, "save", "unsave")),
            "device": float(self._suits(video["orientation"])),
            "creator_affinity": self.affinity("creator", video["creator"]),
            "hashtag_affinity": self.affinity("hashtag", *video["hashtags"]),
            "lately": max(-1.0, min(1.0, math.fsum(map(self.lately, video["hashtags"])))),
            "sound_affinity": self.affinity("sound", video["sound"]),
            "caption": saturated(terms),
            "collaborative": saturated(
                self.near.get(key, 0.0) ** 2, settings.collaborative_scale ** 2
            ),
            "social": saturated(len(self.people(key))),
            "quality": min(1.0, engaged / (video["impressions"] + prior)),
            "trending": 0.0 if trend is None else saturated(
                2 ** max(-500, min(500, trend - self.half_lives("trend"))), self.trend_scale()
            ),
            "freshness": freshness if video["published_at"] else 0.0,
            "exploration": trial / (trial + video["impressions"]),
        }  # fmt: skip

    def _same(self, video: Row, name: str) -> bool:
        return bool(video[name]) and video[name] == self.viewer.get(name)

    def _suits(self, orientation: str | None) -> bool:
        device = self.viewer.get("device")
        if device is None or orientation is None:
            return False
        is_handheld = device in {"phone", "mobile", "ios", "android"}
        return orientation == "square" or (orientation == "portrait") == is_handheld

    def muted(self, kind: str) -> set[str]:
        return {
            value for user, each, value in self.world.mutes if (user, each) == (self.user, kind)
        }

    def people(self, key: str) -> dict[str, datetime]:
        """The followed people who engaged with a video recently, and when they did."""
        return {
            person: moment
            for (person, video), moment in self.world.recent.items()
            if video == key and person in self.wanted
        }

    def social(self, quota: int) -> list[str]:
        """The videos of the latest engagements of the followed people, most of these first."""
        every = [
            (moment, self.order[key])
            for key in self.order
            for moment in self.people(key).values()
            if moment <= self.as_of
        ]
        latest = sorted(every, reverse=True)[: SCAN_FACTOR * quota]
        number = Counter(place for _, place in latest)
        newest = {place: moment for moment, place in reversed(latest)}
        best = sorted(number, key=lambda place: (number[place], newest[place], place))
        return [list(self.order)[place] for place in reversed(best)]

    def filters(self, key: str) -> dict[str, bool]:
        """Which filters a video passes."""
        video = self.world.videos[key]
        kinds = {each.kind for each in self.deeds.get(key, ())}
        sound, creators = video["sound"], self.muted("creator")
        words = text.words(video["caption"] or "")
        return {
            "published": video["status"] == "published",
            "not_in_future": dated(video) <= self.as_of,
            "available": True,
            "creator_not_blocked": True,
            "not_own": video["creator"] != self.user,
            "not_rejected": not is_rejected_by(self._deeds_of(key)),
            "not_seen": not kinds,
            "creator_not_muted": video["creator"] not in creators,
            "sound_not_muted": sound not in self.muted("sound")
            and self.world.owners.get(sound or "") not in creators,
            "hashtag_not_muted": not self.muted("hashtag") & set(video["hashtags"]),
            "keyword_not_muted": not any(
                text.words(muted) in words for muted in self.muted("keyword")
            ),
        }

    def eligible(self, allowed: Callable[[Row], bool], exclude: Collection[str]) -> list[str]:
        """What may be shown, the newest first."""
        found = [
            key
            for key, video in self.world.videos.items()
            if key not in exclude and allowed(video) and all(self.filters(key).values())
        ]
        return sorted(found, key=self.newness, reverse=True)

    def newness(self, key: str) -> tuple[datetime, int]:
        return (dated(self.world.videos[key]), self.order[key])

    def sources(
        self,
        quotas: Mapping[str, int],
        allowed: Callable[[Row], bool] = lambda _: True,
        exclude: Collection[str] = (),
    ) -> dict[str, list[str]]:
        """What each source finds, in its order; what the page leaves out still included."""
        unseen = {
            key: self.filters(key)
            for key, video in self.world.videos.items()
            if key not in exclude and allowed(video) and self.filters(key)["not_seen"]
        }
        is_out = ("published", "not_in_future")
        keys = [key for key, filters in unseen.items() if all(filters[name] for name in is_out)]
        keys.sort(key=self.newness, reverse=True)
        trending = [key for key, filters in unseen.items() if filters["published"]]
        found = {**self._by_interest(keys), **self._by_statistics(keys, trending)}
        found["neighbours"] = sorted(
            (key for key in unseen if key in self.near),
            key=lambda key: (self.near[key], self.order[key]),
            reverse=True,
        )
        found["social"] = [key for key in self.social(quotas["social"]) if key in unseen]
        found["newest"] = self.eligible(allowed, exclude)
        return {name: each[: quotas[name]] for name, each in found.items()}

    def _by_interest(self, keys: list[str]) -> dict[str, list[str]]:
        videos, viewer = self.world.videos, self.viewer
        tags = {*viewer.get("interests", ()), *self.best("hashtag")} - self.muted("hashtag")
        sounds = {*viewer.get("liked_sounds", ()), *self.best("sound")} - self.muted("sound")
        enjoyed = [*self.recent][: self.settings.interests]
        creators = {*self.best("creator"), *(videos[key]["creator"] for key in enjoyed)}
        creators -= {None, *self.muted("creator")}
        return {
            "following": [key for key in keys if videos[key]["creator"] in self.wanted],
            "hashtags": [key for key in keys if tags & set(videos[key]["hashtags"])],
            "sounds": [key for key in keys if videos[key]["sound"] in sounds],
            "creators": [key for key in keys if videos[key]["creator"] in creators],
        }

    def best(self, subject: str) -> list[str]:
        """The subjects of the most affinity."""
        scores = {
            name: score
            for (user, each, name), score in self.world.affinities.items()
            if (user, each) == (self.user, subject) and score > 0
            and name not in self.muted(subject)
        }  # fmt: skip
        return sorted(scores, key=lambda name: (-scores[name], name))[: self.settings.interests]

    def _by_statistics(self, keys: list[str], trending: list[str]) -> dict[str, list[str]]:
        videos = self.world.videos
        language, country = self.viewer.get("language"), self.viewer.get("country")
        trending = sorted(
            (key for key in trending if videos[key]["trending"] is not None),
            key=lambda key: (videos[key]["trending"], self.order[key]),
            reverse=True,
        )
        return {
            "trending": [
                key
                for key in trending
                if language is None or videos[key]["language"] in {language, None}
            ],
            "nearby": [k for k in trending if country and videos[k]["country"] == country],
            "fresh": sorted(filter(self._is_on_trial, keys), key=self._place_in_circle),
        }

    def is_trending(self, key: str) -> bool:
        """Whether the trend is worth one viewer today."""
        trend = self.world.videos[key]["trending"]
        return trend is not None and bool(trend >= self.half_lives("trend"))

    def _is_on_trial(self, key: str) -> bool:
        """The world has fewer new videos than a source looks at."""
        viewers = self.world.videos[key]["impressions"]
        return self._is_new(key) and bool(viewers < self.settings.trial_viewers)

    def _is_new(self, key: str) -> bool:
        video = self.world.videos[key]
        since = self.as_of - timedelta(days=self.settings.trial_days)
        return since <= dated(video) <= self.as_of and video["status"] == "published"

    def _place_in_circle(self, key: str) -> int:
        """That of a preview of the day."""
        seed = blake2b(f"{self.user} {self.as_of.date()}".encode(), digest_size=4).digest()
        start = random.Random(f"{int.from_bytes(seed) % SEEDS} 1").randrange(CYCLE)  # noqa: S311 - not for secrets
        newest = sorted(filter(self._is_new, self.world.videos), key=self.newness, reverse=True)
        return ((newest.index(key) + 1) * SHUFFLE_STEP + start) % CYCLE

    def score_key(self, key: str, weights: Mapping[str, float]) -> int:
        values = self.signals(key)
        total = 0.0
        for name, weight in weights.items():
            total += weight * values[name]
        return math.trunc(total * 1e9 + math.copysign(0.5, total))

    def feed(
        self, weights: Mapping[str, float], found: Mapping[str, list[str]]
    ) -> list[tuple[str, float, tuple[str, ...]]]:
        """Video, score and sources of all that sources found and that every filter lets through."""
        scored = []
        for key in {key for each in found.values() for key in each}:
            if all(self.filters(key).values()):
                names = tuple(name for name in SOURCE_NAMES if key in found[name])
                scored.append((self.score_key(key, weights), *self.newness(key), key, names))
        scored.sort(reverse=True)
        return [(key, score / 1e9, names) for score, _, _, key, names in scored]


SOURCE_NAMES = (
    "following", "social", "neighbours", "hashtags", "sounds", "creators", "trending", "nearby",
    "fresh", "newest",
)  # fmt: skip


def random_weights(seed: int) -> dict[str, float]:
    """A weight for every signal, some below 0."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    return {each.name: chance.uniform(-0.5, 1.5) for each in recommender.SIGNALS}
