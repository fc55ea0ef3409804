"""The list of similar videos against plain Python, on random worlds."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping
from typing import Any

import pytest
from sqlalchemy.orm import Session

import recommender
from recommender import similar
from recommender.models import Video
from recommender.ranking.similar import SIMILAR_SIGNALS
from tests.support.oracle import (
    VIEWERS,
    Oracle,
    World,
    load,
    random_weights,
    random_world,
    saturated,
    terms_of,
)
from tests.support.worlds import NOON, names


class SimilarOracle(Oracle):
    """The list for one viewer, or for none, worked out one video at a time."""

    def __init__(self, world: World, user: str | None, seeds: Collection[str]) -> None:
        super().__init__(world, user or "")
        self.seeds = seeds
        self.pairs = {
            (seed, video): max(world.neighbours.get(pair, 0.0) for pair in both)
            for seed in seeds
            for video in world.videos
            for both in [((seed, video), (video, seed))]
            if any(pair in world.neighbours for pair in both)
        }

    def of_seeds(self, name: str) -> set[Any]:
        return {self.world.videos[seed][name] for seed in self.seeds} - {None}

    def seed_tags(self) -> set[str]:
        return {tag for seed in self.seeds for tag in self.world.videos[seed]["hashtags"]}

    def rarity_of(self, tag: str) -> float:
        listed = [v for v in self.world.videos.values() if v["status"] == "published"]
        return 1 / math.log(math.e + sum(tag in video["hashtags"] for video in listed))

    def seed_words(self) -> dict[int, float]:
        common = max(1.0, self.world.state["captions"] * self.settings.common_term)
        counted = {term: n for word, n in self.world.terms.items() for term in terms_of(word)}
        said = {term for seed in self.seeds for term in terms_of(self._caption(seed))}
        return {t: 1 - counted[t] / common for t in said if t in counted and counted[t] < common}

    def _caption(self, key: str) -> str | None:
        caption: str | None = self.world.videos[key]["caption"]
        return caption

    def signals(self, key: str) -> dict[str, float]:
        video, words = self.world.videos[key], self.seed_words()
        near = math.fsum(self.pairs.get((seed, key), 0.0) for seed in self.seeds)
        tags = self.seed_tags() & set(video["hashtags"])
        return {
            **super().signals(key),
            "similarity": near / len(self.seeds),
            "shared_hashtags": saturated(math.fsum(map(self.rarity_of, tags))),
            "shared_words": saturated(
                math.fsum(words.get(term, 0.0) for term in terms_of(video["caption"]))
            ),
            "same_sound": float(video["sound"] in self.of_seeds("sound")),
            "same_creator": float(video["creator"] in self.of_seeds("creator")),
        }

    def sources_of(self, key: str) -> tuple[str, ...]:
        video, language = self.world.videos[key], self.viewer.get("language")
        found = {
            "neighbours": any(video == key for _, video in self.pairs),
            "hashtags": bool(self.seed_tags() & set(video["hashtags"])),
            "sounds": video["sound"] in self.of_seeds("sound"),
            "creators": video["creator"] in self.of_seeds("creator"),
            "trending": video["trending"] is not None
            and (language is None or video["language"] in {language, None}),
        }
        return tuple(name for name, is_found in found.items() if is_found) or ("newest",)

    def listed(
        self, weights: Mapping[str, float], keys: Collection[str]
    ) -> list[tuple[str, tuple[str, ...]]]:
        """What was found by score, then the others by newness, each with its sources."""

        def place(key: str) -> tuple[Any, ...]:
            is_found = self.sources_of(key) != ("newest",)
            return is_found, self.score_key(key, weights) if is_found else 0, *self.newness(key)

        return [(key, self.sources_of(key)) for key in sorted(keys, key=place, reverse=True)]


def walk(session: Session, seeds: Collection[str], **options: Any) -> list[Any]:
    """The items of all pages; every page but the last is full or cut short."""
    items, cursor = [], None
    while True:
        page = similar(session, seeds, cursor=cursor, **options)
        items += page.items
        assert page.exhausted == (page.cursor is None)
        assert page.exhausted or page.cut_short or len(page.items) == options["limit"]
        if (cursor := page.cursor) is None:
            return items


@pytest.mark.parametrize("worlds", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_the_list_equals_plain_python_on_random_worlds(session: Session, worlds: int) -> None:
    for seed in range(40, 40 + worlds):
        chance = random.Random(seed)  # noqa: S311 - not for secrets
        world = random_world(seed, videos=40)
        weights = random_weights(seed)
        weights |= {each.name: chance.uniform(-0.5, 4) for each in SIMILAR_SIGNALS}
        with session.begin_nested() as savepoint:
            load(session, world)
            recommender.create_profile(session, "similar", weights)
            for user in (None, "nobody", *VIEWERS) if worlds > 1 else (None, "u0"):
                check(session, world, user, weights, chance)
            savepoint.rollback()


def check(
    session: Session,
    world: World,
    user: str | None,
    weights: Mapping[str, float],
    chance: random.Random,
) -> None:
    """Check the whole list, a walk of pages, and what a condition and keys leave."""
    keys = list(world.videos)
    seeds = chance.sample(keys, chance.choice([1, 1, 2, 5]))
    oracle = SimilarOracle(world, user, seeds)
    language = chance.choice([None, "en"])
    exclude = chance.sample(keys, chance.choice([0, 6]))
    options: dict[str, Any] = {"user": user, "as_of": NOON, "exclude": exclude}
    if language:
        options["where"] = Video.language == language
    may_be = oracle.eligible(
        lambda video: language is None or video["language"] == language, {*exclude, *seeds}
    )
    expected = oracle.listed(weights, may_be)
    whole = similar(session, seeds, limit=500, **options)
    assert [(item.video, item.sources) for item in whole.items] == expected
    assert whole.items == similar(session, reversed(seeds), limit=500, **options).items
    for item in whole.items:
        values = oracle.signals(item.video)
        got = {name: each.value for name, each in item.signals.items()}
        assert got == pytest.approx({name: values[name] for name in got}, abs=1e-9)
    for limit in (1, 7, max(1, len(expected))) if len(expected) < 15 else (11, len(expected)):
        walked = walk(session, seeds, limit=limit, **options)
        assert [item.video for item in walked] == names(whole)
