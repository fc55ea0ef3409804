"""The contract of every signal and filter, whichever they are."""

from __future__ import annotations

import inspect
import math
import re

import pytest
from sqlalchemy.orm import Session

import recommender
from recommender import FILTERS, SIGNALS, Filter, Signal
from recommender.columns import Base
from recommender.signals import MOST_OFTEN
from tests.worlds import NOON, make_user, make_video, make_videos, record, worked_example

SIGNAL = pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.name)
FILTER = pytest.mark.parametrize("each", FILTERS, ids=lambda each: each.name)


def extreme_world(session: Session) -> None:
    """A video that all speaks for, one that nothing is known of, and one without a viewer."""
    tags = [f"tag{number}" for number in range(300)]
    facts = {"language": "en", "country": "US"}
    make_user(session, interests=tags, liked_sounds=["song"], **facts)
    make_video(session, "all", creator="star", hashtags=tags, sound="song", **facts)
    make_videos(session, "nothing", "seen")
    recommender.follow(session, "viewer", "star")
    for kind in ("watch", "like", "share", "comment", "save", "report", "not_interested"):
        record(session, kind, "all", completion=1 if kind == "watch" else None)
    record(session, "watch", "seen")


def values(session: Session, user: str) -> dict[str, dict[str, float]]:
    page = recommender.rank(session, user, ["all", "nothing", "seen"], profile="every", as_of=NOON)
    return {i.video: {name: each.value for name, each in i.signals.items()} for i in page.items}


def every_signal(session: Session) -> None:
    recommender.create_profile(session, "every", {signal.name: 1 for signal in SIGNALS})


@SIGNAL
@pytest.mark.parametrize("user", ["viewer", "nobody"])
def test_a_signal_is_a_number_in_its_range(session: Session, signal: Signal, user: str) -> None:
    extreme_world(session)
    every_signal(session)
    for found in values(session, user).values():
        value = found[signal.name]
        assert isinstance(value, float)
        assert math.isfinite(value)
        assert signal.low <= value <= signal.high


@SIGNAL
def test_a_signal_tells_the_best_video_from_the_others(session: Session, signal: Signal) -> None:
    extreme_world(session)
    every_signal(session)
    found = values(session, "viewer")
    assert found["all"][signal.name] > found["nothing"][signal.name] == 0


def test_signals_reach_the_ends_of_their_ranges(session: Session) -> None:
    extreme_world(session)
    every_signal(session)
    found = values(session, "viewer")["all"]
    assert {name: value for name, value in found.items() if name != "shares"} == {
        signal.name: signal.high for signal in SIGNALS if signal.name != "shares"
    }


def test_shares_are_counted_up_to_a_million(session: Session) -> None:
    make_user(session)
    make_videos(session, "all", "nothing", "seen")
    every_signal(session)
    record(session, "share", "all")
    state = Base.metadata.tables["rec_interactions"]
    session.execute(state.update().values(shares=MOST_OFTEN * 1000))
    assert values(session, "viewer")["all"]["shares"] == MOST_OFTEN


def test_the_largest_weights_on_the_largest_signals_do_not_overflow(session: Session) -> None:
    extreme_world(session)
    recommender.create_profile(session, "most", {signal.name: 100 for signal in SIGNALS})
    state = Base.metadata.tables["rec_interactions"]
    session.execute(state.update().values(shares=2**62))
    (first, *_) = recommender.for_you(session, "viewer", profile="most", as_of=NOON).items
    assert first.score == 100 * (MOST_OFTEN + 300 + 6)


@SIGNAL
def test_a_signal_says_its_range_and_what_it_reads(signal: Signal) -> None:
    said = inspect.getdoc(signal.expression) or ""
    ranges = re.search(r"^Range: (\d+) (?:to|or) ([\d,]+)", said, re.MULTILINE)
    assert ranges
    assert [float(end.replace(",", "")) for end in ranges.groups()] == [signal.low, signal.high]
    reads = re.search(r"Reads: ([a-z_, ]+)\.", said)
    assert reads
    for table in reads[1].split(", "):
        assert f"rec_{table}" in Base.metadata.tables


@SIGNAL
def test_no_signal_has_a_clock_of_its_own(session: Session, signal: Signal) -> None:
    worked_example(session)
    request = recommender.resolve(session, "user1", as_of=NOON)
    sent = str(recommender.feed_query(request).compile(session.get_bind()))
    assert signal.name in sent
    assert not re.search(r"now\(|current_|clock_|strftime|julianday|random", sent, re.IGNORECASE)


@FILTER
def test_a_filter_is_described(each: Filter) -> None:
    assert inspect.getdoc(each.predicate)
    assert each.otherwise[0].islower()


def test_names_are_unique() -> None:
    assert len({signal.name for signal in SIGNALS}) == len(SIGNALS)
    assert len({each.name for each in FILTERS}) == len(FILTERS)
