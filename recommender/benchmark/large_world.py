"""Seeded synthetic worlds of any size, as columns of the tables, for benchmarks.

`demo_world` makes small worlds through the public functions. This module makes millions of rows of
every table that a feed reads, derived tables included. Rows come in blocks, in the order of their
keys. A value depends only on the seed and on the numbers of its row, so blocks can be made alone.

Popularity is Zipf-shaped: creators, sounds, hashtags, words and videos of rank r are chosen in
proportion to 1 / r. The first user has seen very many videos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from recommender.benchmark.distributions import (
    DAY_US,
    Columns,
    Numbers,
    affinity_sums,
    before_end,
    blocks,
    distinct_pairs,
    id_of_rank,
    named_rows,
    newest_of_each,
    rank_of_id,
    repeat_owners,
    skewed_counts,
    spelt_words,
    uniform,
    zipf_rank,
)
from recommender.formats import text
from recommender.learning.affinities import Rules

PUBLISHED_DAYS, WATCHED_DAYS = 365, 60
"""The days before the end in which videos were published, and watched."""

LANGUAGES = ("en", "en", "en", "en", "es", "es", "pt", "de", "tr", "ja")

COUNTRIES = ("US", "US", "GB", "MX", "ES", "BR", "DE", "AT", "TR", "JP")

DEVICES = ("phone", "phone", "phone", "desktop")

WORDS_OF_A_CAPTION = 5

MOST_TAGS = 12
INTERESTS, LIKED_SOUNDS = 3, 2

RECENT, LEARNED = 50, 20
"""The recent engagements per user that feeds may read, and the ones that affinities come from."""


@dataclass(frozen=True)
class LargeWorld:
    """The sizes and the seed of a world.

    Args:
        videos: the number of videos, at least 100.
        users: the number of users, who watch and publish.
        follows: about the number of follows.
        interactions: about the number of interactions.
        hashtags_each: about the number of hashtags per video.
        seen: about the number of videos that the first user interacted with.
        seed: the same seed and sizes give the same world.
    """

    videos: int
    users: int
    follows: int
    interactions: int
    hashtags_each: float = 3.9
    seen: int = 20_000
    seed: int = 26

    @classmethod
    def of(
        cls,
        videos: int,
        users: int | None = None,
        follows: int | None = None,
        interactions: int | None = None,
        **others: Any,
    ) -> LargeWorld:
        """Return a world of the usual shape; each None becomes a share of the videos."""
        return cls(
            videos=videos,
            users=max(100, videos // 10) if users is None else users,
            follows=videos * 48 // 10 if follows is None else follows,
            interactions=videos * 10 if interactions is None else interactions,
            **{"seen": min(20_000, videos // 10), **others},
        )

    @property
    def name(self) -> str:
        """The name of the world, made of its sizes and seed; user keys begin with it."""
        sizes = (self.videos, self.users, self.follows, self.interactions, self.hashtags_each)
        return "-".join(map(str, ("bench", self.seed, *sizes, self.seen)))

    @property
    def sounds(self) -> int:
        """The number of sounds."""
        return max(10, self.videos // 20)

    @property
    def hashtags(self) -> int:
        """The number of hashtags."""
        return max(20, self.videos // 10)

    @property
    def words(self) -> int:
        """The number of words that captions are made of."""
        return min(20_000, max(100, self.videos // 10))

    def user_key(self, user_id: int) -> str:
        """Return a user's key."""
        return f"{self.name}-{user_id}"

    def tables(self, rules: Rules, trend: float) -> Iterator[tuple[str, Iterator[Columns]]]:
        """Yield the tables: a name without the prefix, and the rows in blocks.

        A table comes after the tables that its keys refer to.

        Args:
            rules: the learning rules that affinities depend on.
            trend: the number of trend half-lives since the landmark.
        """
        of_users: dict[str, Callable[[Numbers], Columns]] = {
            "users": self._users,
            "user_hashtags": self._interests,
            "user_sounds": self._liked_sounds,
            "follows": self._follows,
            "interactions": self._interactions,
            "recent_engagements": self._recent_engagements,
            "affinities": lambda users: self._affinities(users, rules),
        }
        of_videos: dict[str, Callable[[Numbers], Columns]] = {
            "videos": lambda videos: self._videos(videos, trend),
            "video_captions": self._captions,
            "video_terms": self._video_terms,
            "video_hashtags": self._video_hashtags,
            "video_neighbours": self._neighbours,
        }
        yield "users", blocks(self.users, 1, self._users)
        yield "sounds", blocks(self.sounds, 1, lambda ids: named_rows(ids, "key", "sound"))
        yield "hashtags", blocks(self.hashtags, 1, lambda ids: named_rows(ids, "name", "tag"))
        yield "terms", blocks(self.words, 1, self._terms)
        for name, rows in of_videos.items():
            yield name, blocks(self.videos, 4, rows)
        per_user = 2 * max(self.follows, self.interactions) // self.users + 1
        for name, rows in list(of_users.items())[1:]:
            yield name, blocks(self.users, per_user, rows)

    def chance(self, part: str, ids: Numbers) -> Numbers:
        """Return a random number from 0 to 1 for each id."""
        return uniform(f"{self.seed}/{part}", ids)

    def _pick(self, part: str, ids: Numbers, among: int) -> Numbers:
        """Return an id for each of `ids`, with Zipf-shaped popularity."""
        return id_of_rank(zipf_rank(self.chance(part, ids), among), among)

    def _user_facts(self, ids: Numbers) -> dict[str, Any]:
        locale = (self.chance("locale", ids) * len(LANGUAGES)).astype(int)
        return {
            "language": np.array(LANGUAGES, object)[locale],
            "country": np.array(COUNTRIES, object)[locale],
        }

    def _users(self, ids: Numbers) -> Columns:
        device = (self.chance("device", ids) * len(DEVICES)).astype(int)
        return {
            "id": ids,
            "key": [self.user_key(user_id) for user_id in ids.tolist()],
            **self._user_facts(ids),
            "device": np.array(DEVICES, object)[device],
            "created_at": np.full(len(ids), before_end(PUBLISHED_DAYS)),
        }

    def creators(self, videos: Numbers) -> Numbers:
        """Return the creators of videos, in proportion to the square root of their popularity."""
        ranks = 1 + (self.chance("creator", videos) ** 2 * self.users).astype(int)
        return id_of_rank(ranks, self.users)

    def _sounds_of(self, videos: Numbers) -> Numbers:
        """Return the sounds of videos, 0 for a video without sound."""
        has_none = self.chance("silent", videos) < 0.2
        return np.where(has_none, 0, self._pick("sound", videos, self.sounds))

    def _published_at(self, videos: Numbers) -> Numbers:
        """Return when videos were published, in the order of their ids."""
        part = (videos - self.chance("published", videos)) / self.videos
        span = (part * PUBLISHED_DAYS * DAY_US).astype("m8[us]")
        times: Numbers = before_end(PUBLISHED_DAYS) + span
        return times

    def _is_published(self, videos: Numbers) -> Numbers:
        is_published: Numbers = self.chance("status", videos) >= 0.02
        return is_published

    def _quality(self, videos: Numbers) -> Numbers:
        """Return the probability that a viewer engages with each video, 0.1 to 0.7."""
        return 0.1 + 0.6 * self.chance("quality", videos) ** 2

    def _videos(self, ids: Numbers, trend: float) -> Columns:
        owners = self._user_facts(self.creators(ids))
        share = 0.5 / (rank_of_id(ids, self.videos) * math.log(self.videos + 1)) + 0.5 / self.videos
        impressions = np.minimum(self.users, self.interactions * share).astype(int)
        engaged = (impressions * self._quality(ids)).astype(int)
        lately = np.log2(np.maximum(engaged, 1)) - 4 * self.chance("trend", ids)
        sounds = self._sounds_of(ids)
        return {
            "id": ids,
            "key": [f"video{row_id}" for row_id in ids.tolist()],
            "creator_id": self.creators(ids),
            "sound_id": [row_id or None for row_id in sounds.tolist()],
            **owners,
            "duration_ms": 6_000 + (self.chance("duration", ids) * 168).astype(int) * 500,
            "orientation": np.where(self.chance("upright", ids) < 0.9, "portrait", "landscape"),
            "status": np.where(self._is_published(ids), "published", "removed"),
            "published_at": self._published_at(ids),
            "impressions": impressions,
            "engaged_views": engaged,
            "trending": np.where(engaged > 0, trend + lately, np.nan),
            "neighbours_views": engaged,
            "stats_at": np.full(len(ids), before_end(0)),
        }

    @cached_property
    def _vocabulary(self) -> Numbers:
        return spelt_words(self.words)

    @cached_property
    def _term_numbers(self) -> Numbers:
        return np.array([text.terms(text.words(word))[0] for word in self._vocabulary])

    def _words_of(self, videos: Numbers) -> list[Numbers]:
        """Return indexes in the vocabulary, for every word of the captions."""
        return [
            zipf_rank(self.chance(f"word{place}", videos), self.words) - 1
            for place in range(WORDS_OF_A_CAPTION)
        ]

    def _captions(self, ids: Numbers) -> Columns:
        words = [self._vocabulary[item] for item in self._words_of(ids)]
        captions = list(map(" ".join, zip(*words, strict=True)))
        return {"video_id": ids, "caption": captions, "words": [f" {item} " for item in captions]}

    def _video_terms(self, ids: Numbers) -> Columns:
        terms = [self._term_numbers[numbers] for numbers in self._words_of(ids)]
        owners, term_ids = np.repeat(ids, WORDS_OF_A_CAPTION), np.column_stack(terms).ravel()
        return distinct_pairs(video_id=owners, term=term_ids)

    def _terms(self, ids: Numbers) -> Columns:
        """Return the expected number of captions with each word."""
        spread = math.log(self.words + 1)
        likely = np.log((ids + 1) / ids) / spread
        captions = self.videos * (1 - (1 - likely) ** WORDS_OF_A_CAPTION)
        order = np.argsort(self._term_numbers[ids - 1])
        return {
            "term": self._term_numbers[ids - 1][order],
            "captions": captions[order].astype(int),
        }

    def tags(self, videos: Numbers) -> tuple[Numbers, Numbers]:
        """Return the hashtags of videos: rows of video and hashtag, sorted."""
        draws = self.hashtags_each * 1.03  # some are drawn twice
        many = np.minimum(MOST_TAGS, skewed_counts(self.chance("tags", videos), draws))
        owners, places = repeat_owners(videos, many)
        hashtags = self._pick("tag", owners * MOST_TAGS + places, self.hashtags)
        rows = distinct_pairs(video_id=owners, hashtag_id=hashtags)
        return np.asarray(rows["video_id"]), np.asarray(rows["hashtag_id"])

    def _video_hashtags(self, ids: Numbers) -> Columns:
        videos, tags = self.tags(ids)
        listed = np.where(
            self._is_published(videos), self._published_at(videos), np.datetime64("NaT", "us")
        )
        return {"video_id": videos, "hashtag_id": tags, "listed_at": listed}

    def _interests(self, users: Numbers) -> Columns:
        owners, places = repeat_owners(users, np.full(len(users), INTERESTS))
        hashtags = self._pick("interest", owners * INTERESTS + places, self.hashtags)
        return distinct_pairs(user_id=owners, hashtag_id=hashtags)

    def _liked_sounds(self, users: Numbers) -> Columns:
        owners, places = repeat_owners(users, np.full(len(users), LIKED_SOUNDS))
        sounds = self._pick("liked", owners * LIKED_SOUNDS + places, self.sounds)
        return distinct_pairs(user_id=owners, sound_id=sounds)

    def _follows(self, users: Numbers) -> Columns:
        draws = self.follows / self.users * 1.16  # some are drawn twice
        many = np.minimum(self.users, skewed_counts(self.chance("follows", users), draws))
        owners, places = repeat_owners(users, many)
        creators = self._pick("followed", owners * self.users + places, self.users)
        others = creators != owners
        return distinct_pairs(user_id=owners[others], creator_id=creators[others])

    def _watched(self, users: Numbers) -> tuple[Numbers, Numbers]:
        """Return who interacted with which video, half by popularity and half at random."""
        draws = self.interactions / self.users * 1.05  # some are drawn twice
        many = np.where(
            users == 1, int(self.seen * 1.3), skewed_counts(self.chance("watches", users), draws)
        )
        owners, places = repeat_owners(users, np.minimum(many, self.videos))
        pairs = owners * self.videos + places
        by_chance = 1 + (self.chance("any", pairs) * self.videos).astype(int)
        is_popular = self.chance("popular", pairs) < 0.5
        videos = np.where(is_popular, self._pick("watched", pairs, self.videos), by_chance)
        rows = distinct_pairs(user_id=owners, video_id=videos)
        return np.asarray(rows["user_id"]), np.asarray(rows["video_id"])

    def _engagements(self, users: Numbers) -> dict[str, Numbers]:
        owners, videos = self._watched(users)
        pairs = owners * self.videos + videos
        is_engaged = self.chance("engaged", pairs) < self._quality(videos)
        part = self.chance("completion", pairs)
        span = (self.chance("at", pairs) * WATCHED_DAYS * DAY_US).astype("m8[us]")
        return {
            "user_id": owners,
            "video_id": videos,
            "is_engaged": is_engaged,
            "completion": np.round(np.where(is_engaged, 0.6 + 0.4 * part, 0.5 * part), 2),
            "is_liked": is_engaged & (self.chance("liked", pairs) < 0.2),
            "is_shared": is_engaged & (self.chance("shared", pairs) < 0.05),
            "at": before_end(WATCHED_DAYS) + span,
        }

    def _interactions(self, users: Numbers) -> Columns:
        rows = self._engagements(users)
        ones, at, engaged = np.ones_like(rows["user_id"]), rows["at"], rows["is_engaged"]
        never = np.datetime64("NaT", "us")
        return {
            "user_id": rows["user_id"],
            "video_id": rows["video_id"],
            "impressions": ones,
            "plays": ones,
            "engaged_views": engaged.astype(int),
            "completion": rows["completion"],
            "watch_ms": (rows["completion"] * 30_000).astype(int),
            "shares": rows["is_shared"].astype(int),
            "liked_at": np.where(rows["is_liked"], at, never),
            **dict.fromkeys(("engaged_at", "acted_at"), np.where(engaged, at, never)),
            "first_at": at,
            "last_at": at,
        }

    def _newest_engaged(self, users: Numbers, limit: int) -> tuple[Numbers, Numbers, Numbers]:
        """Return every user's newest engagements: user, video and time, `limit` per user."""
        rows = self._engagements(users)
        owners, videos, at = (
            rows[name][rows["is_engaged"]] for name in ("user_id", "video_id", "at")
        )
        kept = newest_of_each(owners, at, limit)
        return owners[kept], videos[kept], at[kept]

    def _recent_engagements(self, users: Numbers) -> Columns:
        owners, videos, at = self._newest_engaged(users, RECENT)
        return {"user_id": owners, "video_id": videos, "at": at}

    def _affinities(self, users: Numbers, rules: Rules) -> Columns:
        """Return what the newest engagements add to creators, sounds and hashtags."""
        owners, videos, at = self._newest_engaged(users, LEARNED)
        sounds = self._sounds_of(videos)
        numbered, places = np.unique(videos, return_inverse=True)
        tagged, tags = self.tags(numbered)
        firsts = np.searchsorted(tagged, numbered)
        many = np.searchsorted(tagged, numbered, side="right") - firsts
        rows, offsets = repeat_owners(np.arange(len(videos)), many[places])
        of_rows = tags[firsts[places[rows]] + offsets]
        heard = np.flatnonzero(sounds)
        parts = (
            ("creator", np.arange(len(videos)), self.creators(videos)),
            ("hashtag", rows, of_rows),
            ("sound", heard, sounds[heard]),
        )
        summed = [
            affinity_sums(subject, owners[of], subject_ids, at[of], rules)
            for subject, of, subject_ids in parts
        ]
        joined = {name: np.concatenate([columns[name] for columns in summed]) for name in summed[0]}
        order = np.lexsort((joined["subject_id"], joined["subject"].astype(str), joined["user_id"]))
        return {name: column[order] for name, column in joined.items()}

    def _neighbours(self, ids: Numbers) -> Columns:
        """Return 30 neighbours for each of the most watched tenth of videos, from that tenth."""
        most = max(1, self.videos // 10)
        sources = ids[rank_of_id(ids, self.videos) <= most]
        owners, places = repeat_owners(sources, np.full(len(sources), 30))
        chance = self.chance("near", owners * 30 + places)
        near = id_of_rank(1 + (chance * most).astype(int), self.videos)
        rows = distinct_pairs(source_id=owners[near != owners], video_id=near[near != owners])
        pairs = rows["source_id"] * self.videos + rows["video_id"]
        rows["similarity"] = rows["weight"] = np.round(0.5 * self.chance("similar", pairs) ** 2, 4)
        return rows
