"""Vectors in lists: the signals and sources of a space, compared with NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender import Profile, Registry, Settings
from recommender.database.spaces import create_space
from recommender.ranking.request import SIMILAR
from tests.support.worlds import (
    at,
    counted_statements,
    make_user,
    make_video,
    make_videos,
    mute,
    names,
    preview,
    record,
    register,
)

TASTE = Profile("taste", 1, {"taste": 1.0})
ALIKE = Profile("alike", 1, {"alike": 1.0})
DIM = 6
VIDEOS = [f"v{number:02}" for number in range(40)]
MADE = sa.select(recommender.models.Video.id).order_by(recommender.models.Video.id)

NO_TRIALS = Settings(exploration_share=0)
"""Settings with which no place is kept for exploration."""


def put(session: Session, vectors: Mapping[str, Any], space: str = "captions") -> None:
    rows: Any = [{"id": key, "vector": vector} for key, vector in vectors.items()]
    recommender.upsert_embeddings(session, space, rows)


def open_space(session: Session, dim: int = DIM, near: int = 20) -> Registry:
    create_space(session.connection(), "captions", dim=dim)
    registry = Registry(space="captions", near=near)
    register(session, registry)
    return registry


@pytest.fixture
def world(session: Session) -> Session:
    """Forty videos of one studio, with random vectors."""
    make_user(session)
    make_videos(session, *VIDEOS, creator="studio")
    open_space(session)
    put(session, vectors())
    return session


def vectors() -> dict[str, Any]:
    rows = np.random.default_rng(5).normal(size=(len(VIDEOS), DIM))
    return dict(zip(VIDEOS, rows / np.linalg.norm(rows, axis=1, keepdims=True), strict=True))


def values(page: recommender.FeedPage, signal: str) -> dict[str, float]:
    return {item.video: item.signals[signal].value for item in page.items}


def test_taste_is_the_cosine_with_the_weighted_mean_of_what_was_enjoyed(world: Session) -> None:
    """The latest counts most, with the weights of the history, and rejections count against."""
    for minutes, (kind, video) in enumerate(
        [("like", "v03"), ("share", "v04"), ("not_interested", "v05"), ("impression", "v06")]
    ):
        record(world, kind, video, at=at(minutes))
    own, settings = vectors(), Settings()
    scale = settings.history_scale
    mean = own["v04"] + own["v03"] * scale / (scale + 1) - settings.taste_rejection * own["v05"]
    expected = {key: own[key] @ mean / np.linalg.norm(mean) for key in VIDEOS}
    page = recommender.rank(world, "viewer", VIDEOS, profile=TASTE, as_of=at(10))
    assert values(page, "taste") == pytest.approx(expected, abs=2e-3)
    order = sorted(VIDEOS, key=lambda key: -expected[key])
    assert names(page)[:3] == order[:3]


def test_taste_is_0_without_a_vector_on_either_side(world: Session) -> None:
    make_video(world, "bare")
    page = recommender.rank(world, "viewer", ["bare", "v01"], profile=TASTE, as_of=at(10))
    assert values(page, "taste") == {"bare": 0.0, "v01": 0.0}
    record(world, "like", "bare")
    page = recommender.rank(world, "viewer", ["bare", "v01"], profile=TASTE, as_of=at(10))
    assert values(page, "taste") == {"bare": 0.0, "v01": 0.0}
    record(world, "like", "v02")
    page = recommender.rank(world, "viewer", ["bare", "v02"], profile=TASTE, as_of=at(10))
    assert values(page, "taste") == pytest.approx({"bare": 0.0, "v02": 1.0}, abs=1e-3)


def test_a_cosine_does_not_depend_on_the_length_that_rounding_leaves(world: Session) -> None:
    put(world, {"v00": [1.0008, 0, 0, 0, 0, 0], "v01": [0.9995, 0, 0, 0, 0, 0]})
    record(world, "like", "v00")
    page = recommender.rank(world, "viewer", ["v00", "v01"], profile=TASTE, as_of=at(10))
    assert values(page, "taste") == pytest.approx({"v00": 1, "v01": 1}, abs=1e-6)


def test_taste_is_0_if_what_was_enjoyed_points_everywhere(world: Session) -> None:
    put(world, {"v00": [1, 0, 0, 0, 0, 0], "v01": [-1, 0, 0, 0, 0, 0]})
    equal = replace(Settings(), history_scale=1e6)
    record(world, "like", "v00")
    record(world, "like", "v01")
    page = recommender.rank(world, "viewer", ["v02"], profile=TASTE, as_of=at(10), settings=equal)
    assert values(page, "taste") == pytest.approx({"v02": 0.0}, abs=1)
    assert np.isfinite(list(values(page, "taste").values())).all()


def test_a_viewer_who_only_rejected_has_no_taste(world: Session) -> None:
    record(world, "not_interested", "v01")
    page = recommender.rank(world, "viewer", ["v01", "v02"], profile=TASTE, as_of=at(10))
    assert set(values(page, "taste").values()) == {0.0}
    assert not any("near" in item.sources for item in preview(world, profile=TASTE).items)
    make_video(world, "bare")
    record(world, "like", "bare")
    page = recommender.rank(world, "viewer", ["v01", "v02"], profile=TASTE, as_of=at(10))
    assert set(values(page, "taste").values()) == {0.0}


def test_a_new_vector_counts_at_once(world: Session) -> None:
    record(world, "like", "v00")
    put(world, {"v00": [1, 0, 0, 0, 0, 0], "v01": [0, 1, 0, 0, 0, 0]})
    page = recommender.rank(world, "viewer", ["v01"], profile=TASTE, as_of=at(10))
    assert values(page, "taste") == {"v01": 0.0}
    put(world, {"v00": [0, 5, 0, 0, 0, 0]})
    page = recommender.rank(world, "viewer", ["v01"], profile=TASTE, as_of=at(10))
    assert values(page, "taste") == {"v01": 1.0}


def test_near_gives_the_nearest_videos_that_may_be_shown(world: Session) -> None:
    record(world, "like", "v03")
    own = vectors()
    order = sorted(VIDEOS, key=lambda key: -(own[key] @ own["v03"]))
    register(world, Registry(space="captions", near=5))
    page = preview(world, profile=TASTE, limit=40)
    near = {item.video for item in page.items if "near" in item.sources}
    assert near == set(order[1:6])
    mute(world, "viewer", "creator", "studio")
    make_videos(world, "other1", "other2", creator="else")
    put(world, {"other1": own["v03"], "other2": -own["v03"]})
    page = preview(world, profile=TASTE, limit=40)
    assert {item.video for item in page.items if "near" in item.sources} == {"other1", "other2"}


def test_a_video_of_its_first_minute_is_found_by_those_whom_it_suits(world: Session) -> None:
    """It has no hashtag and no creator, and a hundred other videos came a moment later."""
    record(world, "like", "v03")
    make_video(world, "first", published_at=at(-1))
    make_videos(world, *(f"later {number}" for number in range(100)), published_at=at(1))
    put(world, {"first": vectors()["v03"]})
    page = preview(world, profile=TASTE, limit=5, settings=NO_TRIALS, as_of=at(1))
    first = page.items[0]
    assert (first.video, first.signals["taste"].value) == ("first", pytest.approx(1, abs=1e-3))
    assert set(first.sources) - {"fresh"} == {"near"}


def test_a_page_tells_whom_a_video_is_like(world: Session) -> None:
    record(world, "like", "v03")
    make_video(world, "first")
    put(world, {"first": vectors()["v03"]})
    with counted_statements(world.connection()) as statements:
        page = preview(world, profile=TASTE, limit=1, reasons=True, settings=NO_TRIALS)
    assert page.items[0].reason == "Because it is like videos that you enjoyed: v03."
    assert len(statements) == 4
    explained = recommender.explain(world, "viewer", "first", as_of=at(1), settings=NO_TRIALS)
    assert "taste" not in explained.item.signals
    recommender.create_profile(world, "by_taste", TASTE.weights)
    explained = recommender.explain(
        world, "viewer", "first", profile="by_taste", as_of=at(1), settings=NO_TRIALS
    )
    assert explained.reason == "Because it is like videos that you enjoyed: v03."


def test_a_reason_names_no_enjoyed_video_that_is_no_longer_shown(world: Session) -> None:
    record(world, "like", "v03")
    make_video(world, "first")
    put(world, {"first": vectors()["v03"]})
    recommender.set_video_status(world, "v03", "removed")
    page = preview(world, profile=TASTE, limit=1, reasons=True, settings=NO_TRIALS)
    assert "v03" not in page.items[0].reason


def test_similar_finds_the_nearest_vectors(world: Session) -> None:
    own = vectors()
    mean = own["v01"] + own["v02"]
    expected = {key: own[key] @ mean / np.linalg.norm(mean) for key in VIDEOS[3:]}
    order = sorted(expected, key=lambda key: -expected[key])
    page = recommender.similar(
        world, ["v01", "v02"], profile=ALIKE, limit=5, as_of=at(1), reasons=True
    )
    assert names(page) == order[:5]
    assert values(page, "alike") == pytest.approx({k: expected[k] for k in order[:5]}, abs=2e-3)
    assert all("alike" in item.sources for item in page.items)
    nearer = max(("v01", "v02"), key=lambda key: own[key] @ own[order[0]])
    assert page.items[0].reason == f"Because it is like {nearer}."


def test_similar_needs_no_vector(world: Session) -> None:
    make_video(world, "bare")
    page = recommender.similar(world, "bare", limit=50, as_of=at(1), profile=ALIKE)
    assert len(page.items) == len(VIDEOS)
    assert set(values(page, "alike").values()) == {0.0}


def test_a_space_changes_nothing_for_a_profile_that_does_not_weigh_it(world: Session) -> None:
    record(world, "like", "v03")
    explained = recommender.similar(world, "v03", limit=3, as_of=at(1), profile=SIMILAR)
    assert "alike" not in explained.items[0].signals


def test_registries_with_malformed_spaces_are_refused() -> None:
    for options, message in (
        ({"space": "two words"}, "registry: space: 'two words' is not one word"),
        ({"space": "x" * 40}, "registry: space: 'xxx"),
        ({"space": "captions", "near": 0}, "registry: near is 0, not a whole number from 1 to"),
    ):
        with pytest.raises(recommender.InvalidValue, match=message):
            Registry(**options)
    with pytest.raises(recommender.UnknownSignal, match="this one needs a registry with a space"):
        Registry().signal("taste")
    few = [recommender.Source(f"s{n}", 1, lambda *_: MADE) for n in range(40)]
    assert len(Registry(sources=few).every_source) == 50
    with pytest.raises(recommender.InvalidValue, match="51 with ours are more than 50"):
        Registry(sources=few, space="captions")
    with pytest.raises(recommender.InvalidValue, match="the name 'taste' is taken"):
        Registry(signals=[recommender.Signal("taste", 0, 1, lambda _: recommender.models.Video.id)])
