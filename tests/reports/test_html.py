"""The file of a report: readable without figures, safe with any text, and whole."""

from __future__ import annotations

import re
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import RecommenderError, cli, run_transaction
from recommender.formats.findings import Finding
from recommender.models import FeedSession, ServedVideo, Video
from recommender.reports import collect, parts
from recommender.reports.collect import report
from recommender.reports.report import Report
from tests.support import browser
from tests.support.kinds import only_sqlite
from tests.support.report_worlds import HOSTILE, SINCE, UNTIL, every_place, write_world

pytestmark = only_sqlite

VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """The tags and texts of a page; it fails if a tag is not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def make_world(engine: Engine) -> None:
    write_world(engine)


@pytest.fixture
def world(engine: Engine) -> Engine:
    """An engine on a copy of the world."""
    return engine


@pytest.fixture
def found(world: Engine) -> Report:
    return report(world, since=SINCE, as_of=UNTIL)


def test_hostile_text_is_text(found: Report) -> None:
    html = found.html()
    page = Page(html)
    assert {tag for tag, _ in page.tags} & {"script", "b", "object", "iframe", "img"} == set()
    attributes = {name for _, given in page.tags for name in given}
    assert [name for name in attributes if name.startswith("on") or name == "src"] == []
    links = [given["href"] for _, given in page.tags if "href" in given]
    assert links == ["data:,"]
    assert "url(" not in html
    shown = {item.caption for one in found.pages for item in one.items}
    assert shown >= set(HOSTILE[:2])
    for caption in ("<script>alert(1)</script>", "evil", "שלום עולם", "🎉👩‍👩‍👧‍👧", "a&amp;b\"'`",
                    "line break", "{{ 7 * 7 }}{% raw %}", "<b>outside"):  # fmt: skip
        assert caption in page.text
    assert "\u202e" not in html
    assert "\x07" not in html


def test_keys_are_shortened(found: Report, world: Engine) -> None:
    text = Page(found.html()).text
    with Session(world) as session:
        users = session.scalars(sa.select(recommender.models.User.key)).all()
        videos = session.scalars(sa.select(Video.key)).all()
    assert [key for key in (*users, *videos) if len(key) > 5 and key in text] == []


def test_the_figures_are_shown(found: Report, world: Engine) -> None:
    text = Page(found.html()).text
    assert found.now.share is not None
    assert f"{found.now.share.value:.0%} of the places that viewers looked at were enjoyed" in text
    assert f"{found.now.users} viewers were served {found.now.pages} pages" in text
    assert f"A page has {10 * (found.sample.creators or 0):.1f} different creators" in text
    for name in (*recommender.operations.audit.PROMISES, "for_you@1", "reels", "other@1"):
        assert name in text
    for finding in found.findings:
        assert " ".join(finding.found.split()) in text
    unlooked = found.now.judged - found.now.looked
    assert f"{unlooked / found.now.judged:.0%} of the places were not looked at" in text
    del world


def test_every_chart_has_a_text(found: Report) -> None:
    charts = [given for tag, given in Page(found.html()).tags if tag == "svg"]
    assert len(charts) == 8
    assert all(given["role"] == "img" and given["aria-label"] for given in charts)


def test_without_pages_no_key_is_shown(world: Engine) -> None:
    html = report(world, since=SINCE, as_of=UNTIL, pages=0).html()
    assert "<ol>" not in html
    assert re.search(r"user \d|user…|v\d", Page(html).text) is None


def emptied(session: Session) -> None:
    session.execute(sa.delete(ServedVideo))
    session.execute(sa.delete(FeedSession))


def without_creators(session: Session) -> None:
    session.execute(sa.update(Video).values(creator_id=None))


def without_outcomes(session: Session) -> None:
    session.execute(sa.delete(recommender.models.Interaction))
    session.execute(sa.update(FeedSession).values(seen_until=0))


def without_signals(session: Session) -> None:
    session.execute(sa.update(ServedVideo).values(signals={}, sources=""))


EMPTY: dict[str, tuple[Callable[[Session], None], tuple[str, ...]]] = {
    "pages": (emptied, ("No page was served in this time.", "No new video was tried out")),
    "creators": (without_creators, ("No place was by a creator", "No page had videos by creators")),
    "outcomes": (without_outcomes, ("No viewer looked at a place in this time",
                                    "nothing can be said about sources")),
    "signals": (without_signals, ("No place with signals was enjoyed",
                                  "nothing can be said about sources")),
}  # fmt: skip


@pytest.mark.parametrize("lack", EMPTY)
def test_a_sentence_stands_where_a_chart_would_be(world: Engine, lack: str) -> None:
    change, sentences = EMPTY[lack]
    run_transaction(world, change)
    text = Page(report(world, since=SINCE, as_of=UNTIL).html()).text
    for sentence in sentences:
        assert sentence in text


def test_a_new_database(engine: Engine) -> None:
    text = Page(report(engine).html()).text
    assert "No page was served in this time." in text
    assert "Age of rollups never" in text


def test_many_waiting_events_are_told_in_full(engine: Engine) -> None:
    waits = Finding("rollups", ok=True, found="1,228 events wait, refreshed at noon")
    text = Page(replace(report(engine), findings=(waits,)).html()).text
    assert "Age of rollups never 1,228 events wait" in " ".join(text.split())


def test_a_long_log_is_not_audited(world: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    found = report(world, since=SINCE, as_of=UNTIL)
    places = found.now.places + found.then.places
    monkeypatch.setattr(collect, "MAX_AUDITED", places)
    assert report(world, since=SINCE, as_of=UNTIL).audit == found.audit
    monkeypatch.setattr(collect, "MAX_AUDITED", places - 1)
    without = report(world, since=SINCE, as_of=UNTIL)
    assert (without.audit, without.as_dict()["audit"]) == (None, None)
    text = Page(without.html()).text
    assert "Promises were not audited" in text
    assert "places without an alternative" not in text


def test_one_day(world: Engine) -> None:
    with Session(world) as session:
        last = max(one.row.served_at for one in every_place(session))
    day = last.replace(hour=0, minute=0, second=0, microsecond=0)
    found = report(world, since=day, as_of=day + timedelta(days=1))
    assert [one.day for one in found.days if one.day >= day] == [day]
    assert "1 day" not in Page(found.html()).text


@pytest.fixture
def run(
    world: Engine, database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., int]]:
    monkeypatch.setenv("RECOMMENDER_DATABASE_URL", database)
    monkeypatch.chdir(tmp_path)
    yield lambda *words: cli.run(["report", "--as-of", UNTIL.isoformat(), *words])
    world.dispose()


def test_the_command_writes_one_file(
    run: Callable[..., int], world: Engine, tmp_path: Path
) -> None:
    assert run("out.html", "--since", "5d") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]
    assert (tmp_path / "out.html").read_text() == report(world, since=SINCE, as_of=UNTIL).html()
    assert (tmp_path / "out.html").stat().st_mode & 0o777 == 0o600
    assert run("out.html", "--since", "5d", "--no-pages") == 0
    assert "<ol>" not in (tmp_path / "out.html").read_text()


def test_the_command_opens_the_file(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert run("out.html", "--open") == 0
    assert opened == [(tmp_path / "out.html").as_uri()]
    assert run("-", "--open") == 2


def test_what_cannot_be_written_is_refused(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("missing/out.html") == 66
    assert "there is no folder" in capsys.readouterr().err
    assert run("out.html", "--since", "500d") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["jinja2", "pygal"])
def test_a_missing_extra_is_one_sentence(
    run: Callable[..., int],
    found: Report,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    assert run("out.html") == 1
    assert capsys.readouterr().err == f"Error: {parts.NEEDS_EXTRA}\n"
    with pytest.raises(RecommenderError, match="pip install"):
        found.html()


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_on_a_phone_and_a_screen(found: Report, scheme: str, tmp_path: Path) -> None:
    seen = browser.measure(found.html(), tmp_path, 360, 1280, scheme=scheme)
    assert seen["console"] == []
    for width in (360, 1280):
        own = seen[str(width)]
        assert (own["wide"], own["faint"], own["scroll"]) == ([], [], width)
        assert own["charts"] == 8
    is_dark = seen["360"]["background"] == "rgb(17, 21, 26)"
    assert is_dark == (scheme == "dark")


def test_a_share_without_an_interval_is_shown(found: Report) -> None:
    without = replace(found, now=replace(found.now, share=None))
    assert "Nothing was looked at" in Page(without.html()).text


def test_no_sentence_has_a_wrong_number(found: Report) -> None:
    page = Page(found.html())
    assert re.findall(r"\b1 (?:pages|viewers|places|videos|users|sessions)\b", page.text) == []
    assert re.findall(r"\b(?:nan|inf|None)\b", page.text) == []
