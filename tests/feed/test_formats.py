"""Pages of some formats: full, complete, and as cheap as others."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender import InvalidValue, Words
from recommender.database import lookup
from recommender.database.expressions import named
from recommender.feed.statements import cached_statement
from recommender.models import Video
from recommender.operations.explained import explained
from recommender.ranking.scoring import top_candidates
from recommender.ranking.viewer import Shape, values_of
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    make_user,
    make_video,
    make_videos,
    names,
    preview,
    record,
)

pytestmark = slow_on_postgresql

OTHERS = 1_200


@pytest.fixture
def world(session: Session) -> Session:
    return fill(session)


def fill(session: Session) -> Session:
    """Write a thousand newer clips, twelve articles and three recipes."""
    make_user(session)
    recommender.upsert_videos(session, [
        {"id": f"clip{n}", "creator": f"c{n % 50}", "published_at": at(-1), "format": "clip"}
        for n in range(OTHERS)
    ])  # fmt: skip
    for number in range(12):
        make_video(session, f"article{number}", creator=f"c{number}", format="article")
    make_videos(session, "recipe0", "recipe1", "recipe2", format="recipe", creator=None)
    record(session, "like", "article11")
    return session


def test_a_rare_format_fills_its_pages(world: Session) -> None:
    articles = {f"article{number}" for number in range(11)}
    first = recommender.for_you(world, "viewer", limit=8, formats=["article"], as_of=NOON)
    assert (len(first.items), first.exhausted) == (8, False)
    last = recommender.for_you(
        world, "viewer", limit=8, formats=["article"], as_of=NOON, cursor=first.cursor
    )
    assert (set(names(first)) | set(names(last)), last.exhausted) == (articles, True)
    assert {item.format for item in first.items} == {"article"}
    assert first.items[0].as_dict()["format"] == "article"
    both = recommender.for_you(
        world, "viewer", limit=8, formats=["recipe", "article"], as_of=NOON, cursor=first.cursor
    )
    assert both == last  # the page of a cursor is served once


@pytest.mark.parametrize("profile", ["for_you", "classic"])
def test_only_videos_of_the_formats_are_shown(world: Session, profile: str) -> None:
    def page(*formats: str, **options: Any) -> set[str]:
        shown = preview(world, limit=40, profile=profile, formats=formats, as_of=NOON, **options)
        return {re.sub(r"\d", "", name) for name in names(shown)}

    assert page("article", "recipe") == {"article", "recipe"}
    assert page("recipe") == {"recipe"}
    assert page("unknown") == set()
    assert page("article", where=Video.creator_id.is_(None)) == set()
    assert page("recipe", where=Video.creator_id.is_(None)) == {"recipe"}
    assert page("recipe", exclude=["recipe0", "recipe1", "recipe2"]) == set()


def test_formats_are_a_list_of_ten_words_at_most(session: Session) -> None:
    for wrong, message in (
        ("article", "'article' is no list"), (None, "None is no list"), ([5], "5 is not text"),
        ([""], "is empty"), (map(str, range(11)), "11 are more than 10"),
    ):  # fmt: skip
        with pytest.raises(InvalidValue, match=rf"^formats: {message}"):
            preview(session, formats=wrong)


def test_a_page_of_a_rare_format_walks_its_index(own_session: Session, kind: str) -> None:
    world = fill(own_session)
    if kind == "postgresql":
        world.execute(sa.text("ANALYZE"))
    wanted = {"limit": 5, "formats": ["recipe", "article"], "as_of": NOON}
    with counted_statements(world.connection()) as sent:
        preview(world, **wanted)
    assert len(sent) == 3
    request = recommender.resolve(world, "viewer", **wanted)
    statement = cached_statement(top_candidates, named, "for_you", Shape.of(request))
    plan = str([row[-1] for row in lookup.run(world, explained(statement), values_of(request))])
    assert plan.count("rec_videos_format_status_published_at_id_ix") == 2


def test_an_explanation_has_the_words_of_the_format(session: Session) -> None:
    make_user(session)
    make_videos(session, "lamp", "chair", "clip")
    recommender.upsert_videos(session, [{"id": "lamp", "format": "product"}])
    words = {"product": Words("products", "looked at", "look on", "bought")}
    record(session, "convert", "lamp")
    for given, did in ((words, "bought"), (None, "acted on"), ({}, "acted on")):
        found = recommender.explain(session, "viewer", "lamp", words=given, as_of=NOON)
        assert found.reason == f"Not shown: you {did} it on 1 January 2026."
    for odd in ("product", {"product": "products"}):
        with pytest.raises(InvalidValue, match=r"^words: "):
            recommender.explain(session, "viewer", "lamp", words=odd)  # type: ignore[arg-type]
