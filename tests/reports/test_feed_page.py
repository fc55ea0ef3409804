"""The file of a viewer's page: the page that `feed` shows, alone or next to another profile's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import FeedPage, Reason, cli, run_transaction
from recommender.reports.page_lists import served_listing
from tests.support.kinds import only_sqlite
from tests.support.worlds import at, make_user, make_videos, names

pytestmark = only_sqlite

HOSTILE = "<script>alert('x')</script> \u202eevil"


def make_world(engine: Engine) -> None:
    def write(session: Session) -> None:
        make_user(session, "viewer", language="en", interests=["dance"])
        make_videos(session, "a", "b", caption=HOSTILE, hashtags=["dance"], creator="maker")
        make_videos(session, "c", "d", "e", published_at=at(-1), creator="other")
        recommender.create_profile(session, "fresh", {"freshness": 5.0})
        recommender.create_profile(session, "tags", {"hashtags": 5.0})

    run_transaction(engine, write)


@pytest.fixture
def world(engine: Engine) -> Engine:
    """An engine on a copy of the world."""
    return engine


@pytest.fixture
def run(
    world: Engine, database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., int]]:
    monkeypatch.setenv("RECOMMENDER_DATABASE_URL", database)
    monkeypatch.chdir(tmp_path)
    moment = at().isoformat()
    yield lambda *words: cli.run(["feed", "viewer", "--as-of", moment, *words])
    world.dispose()


def page_of(world: Engine, profile: str) -> FeedPage:
    with Session(world) as session:
        return recommender.for_you(
            session, "viewer", profile=profile, as_of=at(), record=False, reasons=True
        )


def shown(html: str) -> list[str]:
    parts = html.split('<span class="name"><bdi>')[1:]
    return [part.partition("</bdi>")[0] for part in parts]


def test_the_file_shows_the_page(run: Callable[..., int], world: Engine, tmp_path: Path) -> None:
    assert run("--html", "out.html", "--profile", "tags") == 0
    html = (tmp_path / "out.html").read_text()
    page = page_of(world, "tags")
    assert shown(html) == names(page)
    assert len(page.items) == 5
    assert "5 videos, ranked by tags@1" in html
    assert "a viewer with en" in html
    assert "#dance" in html
    assert HOSTILE.partition(" ")[0] in unescape(html)
    assert "<script" not in html
    assert "\u202e" not in html


def test_two_profiles_stand_side_by_side(
    run: Callable[..., int], world: Engine, tmp_path: Path
) -> None:
    assert run("--html", "out.html", "--profile", "tags", "--against", "fresh") == 0
    html = (tmp_path / "out.html").read_text()
    one, two = names(page_of(world, "tags")), names(page_of(world, "fresh"))
    assert shown(html) == [*one, *two]
    same = sum(first == second for first, second in zip(one, two, strict=True))
    assert f"tags@1 and fresh@1 share 5 of 5 videos, {same} of them at the same place" in html
    moved = one.index(two[0])
    assert f"up {moved}" in html
    assert "2 weights differ" in html


def test_reasons_of_a_served_page_have_short_keys(world: Engine) -> None:
    page = page_of(world, "tags")
    item = replace(
        page.items[0], video="video-12345", creator="creator-12345",
        reasons=(Reason("liked", "video-98765"), Reason("follows", "creator-12345"),
                 Reason("hashtag", "gardening")),
    )  # fmt: skip
    request = replace(page.request, user="viewer-12345")
    (place,) = (shown := served_listing(replace(page, request=request, items=(item,)))).places
    assert (place.name, place.by) == ("vide…", "crea…")
    assert place.why == "you liked vide… · you follow crea… · #gardening"
    assert "12345" not in shown.title


def test_an_unknown_viewer_has_a_page(run: Callable[..., int], tmp_path: Path) -> None:
    moment = at().isoformat()
    assert cli.run(["feed", "nobody", "--html", "out.html", "--as-of", moment]) == 0
    assert "an unknown viewer" in (tmp_path / "out.html").read_text()
    del run


@pytest.mark.parametrize(
    "words",
    ["--against fresh", "--html o.html --format json", "--html o.html --record",
     "--html o.html --following", "--html o.html --explain", "--html o.html --against none",
     "--html missing/o.html"],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    run: Callable[..., int], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words.split()) == (66 if "missing" in words else 2)
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
