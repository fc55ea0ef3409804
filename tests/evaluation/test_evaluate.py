"""Evaluations of logs small enough to work out by hand, and what none may know or leave."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    BadData,
    Event,
    InvalidValue,
    LogFiles,
    NotFound,
    Settings,
    UnknownProfile,
    cli,
    create_engine,
    evaluate,
    export_file,
    models,
    rank,
    refresh,
    run_transaction,
)
from recommender.benchmark.demo_world import DemoWorld, load
from recommender.database.scratch import scratch_database
from recommender.evaluation import metrics
from recommender.evaluation.evaluate import Evaluation, _Run
from recommender.evaluation.labels import read_impressions
from recommender.evaluation.log_files import is_positive
from recommender.evaluation.log_replay import Cut, Timeline, cut_per_user
from recommender.evaluation.logistic import logistic
from recommender.evaluation.rankers import (
    Catalogue,
    PageRequest,
    profile_ranker,
    seen_videos,
)
from recommender.evaluation.results import (
    ImpressionQuality,
    PageQuality,
    RankedPages,
    ScoredImpressions,
)
from recommender.formats import scalars
from recommender.models import LearningState
from recommender.models.types import Base
from recommender.ranking.registry import OURS
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.worlds import at, make_user, make_video, names, preview, rows_of

CUTOFF = at()
HOUR = timedelta(hours=1)
WORLD = DemoWorld(viewer_count=16, creator_count=24, video_count=120)
WORLD_CUTOFF = WORLD.end - timedelta(days=4)
SETTINGS = Settings()

OF_FEEDS = ("classic", "for_you")
"""The built-in profiles that make pages of a feed."""

Rows = Iterable[Mapping[str, Any]]

LOG_KINDS = [each.name for each in fields(LogFiles)]


def written(folder: Path, **kinds: Rows) -> LogFiles:
    """A log as files: the users are those that rows name, where none are given."""
    every = {kind: list(kinds.get(kind, ())) for kind in LOG_KINDS}
    named = {row["user"] for kind in ("follows", "events") for row in every[kind]}
    every["users"] = every["users"] or [{"id": user} for user in sorted(named)]
    for kind, rows in every.items():
        lines = [json.dumps({name: plain(v) for name, v in row.items()}) for row in rows]
        (folder / f"{kind}.jsonl").write_text("\n".join([*lines, ""]))
    return LogFiles(*((str(folder / f"{kind}.jsonl"),) * bool(every[kind]) for kind in LOG_KINDS))


def plain(value: Any) -> Any:
    return scalars.written_time(value) if hasattr(value, "isoformat") else value


def video(key: str, minutes: float, **columns: Any) -> dict[str, Any]:
    """A video of a creator and sound of its own, published so many minutes after the cutoff."""
    return {"id": key, "creator": f"by-{key}", "published_at": at(minutes), **columns}


def watch(user: str, key: str, minutes: float, completion: float) -> dict[str, Any]:
    name = f"{user}-{key}-{minutes}"
    about = {"id": name, "user": user, "video": key, "kind": "watch", "at": at(minutes)}
    return {**about, "completion": completion}


def watches(user: str, minutes: float, seen: str) -> list[dict[str, Any]]:
    """A watch of each named video, to the end where its name is in capitals."""
    return [
        watch(user, key.lower(), minutes + place, float(key.isupper()))
        for place, key in enumerate(seen)
    ]


VIDEOS = [video("a", -300), video("b", -200), video("c", -100), video("d", -60)]
BEFORE = [*watches("x", -50, "ABC"), *watches("y", -40, "AB"), *watches("z", -30, "Ad")]
AFTER = [*watches("u", 10, "AbCd"), *watches("w", 20, "Ad")]
FOLLOWS = [{"user": "u", "creator": "by-c", "at": at(-5)}]


def small_log(folder: Path, *more: Mapping[str, Any]) -> LogFiles:
    events = [*BEFORE, *AFTER, *more]
    return written(folder, videos=VIDEOS, follows=FOLLOWS, events=events)


def ranking(found: Evaluation) -> dict[str, ImpressionQuality]:
    return {each.ranker: each for each in found.ranking}


def pages(found: Evaluation) -> dict[str, PageQuality]:
    return {each.ranker: each for each in found.pages}


def values(qualities: Mapping[str, Any], name: str) -> dict[str, float]:
    return {
        ranker: getattr(each, name).value
        for ranker, each in qualities.items()
        if ranker in {"newest", "popular", "rate", "following"}
    }


def same(found: Evaluation) -> Evaluation:
    return replace(found, seconds=0.0)


@pytest.fixture(scope="module")
def worlds(new_database: Callable[..., str]) -> Iterator[dict[str, Engine]]:
    """The same small world in both databases; tests only read them."""
    engines = {}
    for kind in ("sqlite", "postgresql"):
        engines[kind] = create_engine(new_database(kind))
        load(engines[kind], WORLD)
        refresh(engines[kind], as_of=WORLD.end)
    yield engines
    for engine in engines.values():
        engine.dispose()


def test_impressions_are_ranked_as_worked_out_by_hand(tmp_path: Path) -> None:
    found = evaluate(small_log(tmp_path), cutoff=CUTOFF)
    counts = (found.impressions, found.positives, found.impression_users, found.slices)
    assert counts == (6, 3, 2, 1)
    of_all = values(ranking(found), "auc")
    # three positives (a, c, a) against three negatives (b, d, d)
    assert of_all == {"newest": 1 / 9, "popular": 8 / 9, "rate": 8 / 9, "following": 6 / 9}
    of_users = values(ranking(found), "gauc")
    # u has four impressions and w two
    assert of_users == pytest.approx(
        {
            "newest": 0.25 * 4 / 6,
            "popular": (0.75 * 4 + 2) / 6,
            "rate": (0.75 * 4 + 2) / 6,
            "following": (0.75 * 4 + 0.5 * 2) / 6,
        }
    )
    assert ranking(found)["popular"].log_loss is None


def test_pages_are_as_worked_out_by_hand(tmp_path: Path) -> None:
    users = [{"id": user, "language": "en" if user < "v" else None} for user in "uwxyz"]
    rows = {"users": users, "videos": VIDEOS, "follows": FOLLOWS}
    log = written(tmp_path, **rows, events=[*BEFORE, *AFTER])
    found = evaluate(log, cutoff=CUTOFF, profiles=["for_you"], segments=True)
    assert (found.page_users, found.videos) == (2, 4)
    with pytest.raises(InvalidValue, match="segments: they must be evaluated to be checked"):
        replace(found, segments=()).checks()
    in_segment = {(row.figure, row.segment): row.users for row in found.segments}
    names = ("all users", "new users", "heavy users", "language en", "rare videos", "new videos")
    assert in_segment == {
        **{("gauc", name): users for name, users in zip(names, (2, 2, 0, 1, 2, 2), strict=True)},
        **{("ndcg@20", name): users for name, users in zip(names, (2, 2, 0, 1, 2, 2), strict=True)},
    }
    assert found.candidates.share == (1, 1, 1)
    assert found.candidates.sources["newest"] == (1, 1, 1)
    second, third, fourth = (1 / math.log2(place + 1) for place in (2, 3, 4))
    accuracy = {name: each.accuracy for name, each in pages(found).items()}
    ndcg = {name: each["ndcg@10"].value for name, each in accuracy.items()}  # type: ignore[union-attr]
    # u wants a and c, w wants a
    assert ndcg["newest"] == pytest.approx(((second + fourth) / (1 + second) + fourth) / 2)
    assert ndcg["popular"] == pytest.approx(((1 + third) / (1 + second) + 1) / 2)
    assert ndcg["following"] == pytest.approx((1 / (1 + second) + 0) / 2)
    assert {name: each["recall@20"].value for name, each in accuracy.items()} == {  # type: ignore[union-attr]
        **dict.fromkeys(("for_you", "classic", "random", "newest", "popular", "rate"), 1.0),
        "following": 0.25,
    }
    following = pages(found)["following"]
    assert following.coverage == 0.25
    assert following.creator_gini == 0.75
    assert following.diversity is None
    assert pages(found)["newest"].diversity == (1, 1, 1)
    # a was seen by 3 of the 9 users, creators included, b by 2, c and d by 1 each
    bits = [-math.log2((viewers + 1) / 10) for viewers in (3, 2, 1, 1)]
    assert pages(found)["popular"].novelty == pytest.approx((sum(bits) / 4,) * 3)


@pytest.mark.slow
def test_a_page_holds_nothing_seen_and_nobody_is_asked_who_wanted_only_that(
    tmp_path: Path,
) -> None:
    log = small_log(tmp_path, *watches("x", 30, "Ab"), *watches("y", 40, "AD"))
    found = evaluate(log, cutoff=CUTOFF)
    assert found.page_users == 3
    # y has seen a and b, and wants d: newest begins with it, popular gives c first
    newest, popular = (pages(found)[name].accuracy["mrr@20"] for name in ("newest", "popular"))
    assert newest is not None
    assert popular is not None
    assert newest.value == pytest.approx((1 / 2 + 1 / 4 + 1) / 3)
    assert popular.value == pytest.approx((1 + 1 + 1 / 2) / 3)


@pytest.mark.slow
def test_nobodys_page_holds_their_own_videos(tmp_path: Path) -> None:
    log = written(tmp_path, videos=VIDEOS, events=[*BEFORE, *watches("by-d", 10, "AC")])
    found = pages(evaluate(log, cutoff=CUTOFF))
    # without d, newest is c, b, a
    assert found["newest"].coverage == 0.75
    assert found["newest"].accuracy["mrr@10"] == (1, 1, 1)


@pytest.mark.slow
def test_a_slice_knows_the_slices_before_it_and_not_itself(tmp_path: Path) -> None:
    first = [row for user in "pqr" for row in watches(user, 30, "C")]
    second = [*watches("v", 70, "Ca"), *(row for user in "pqr" for row in watches(user, 65, "aaB"))]
    log = written(tmp_path, videos=VIDEOS, events=[*BEFORE, *first, *second])
    found = evaluate(log, cutoff=CUTOFF, every=HOUR)
    # in the second hour c has 4 engaged views, a 3 and b 2: v has two impressions, the others two
    assert found.slices == 2
    popular = ranking(found)["popular"]
    assert popular.gauc is not None
    assert popular.gauc.value == pytest.approx((2 * 1 + 3 * 3 * 0) / 11)
    at_once = ranking(evaluate(log, cutoff=CUTOFF))["popular"]
    assert at_once.gauc is not None
    # in one slice: c 1, a 3, b 2; p, q and r have c and b before a
    assert at_once.gauc.value == 0
    assert popular.log_loss is not None


@pytest.mark.slow
@pytest.mark.parametrize("seen", ["", "a"])
def test_a_slice_knows_what_came_while_nothing_was_seen(tmp_path: Path, seen: str) -> None:
    follows = [{"user": "u", "creator": "by-c", "at": at(minutes)} for minutes in (100, 650)]
    follows[1]["creator"] = "by-d"
    events = [*BEFORE, *watches("w", 10, seen), *watches("u", 600, "Cd")]
    log = written(tmp_path, videos=VIDEOS, follows=follows, events=events)
    found = ranking(evaluate(log, cutoff=CUTOFF, every=HOUR))
    assert values(found, "gauc")["following"] == 1


@pytest.mark.slow
def test_log_loss_is_of_probabilities_fitted_to_the_slices_before(tmp_path: Path) -> None:
    scored = ScoredImpressions()
    scored.users.extend([0, 1, 0, 1])
    scored.outcomes += [True, False, True, True]
    scored.scores["constant"].extend([1.0, 1.0, 1.0, 1.0])
    scored.bounds += [2, 4]
    (quality,) = scored.qualities(0)
    # one of two, so one half
    assert quality.log_loss == pytest.approx((math.log(2),) * 3)
    assert quality.calibration_error == pytest.approx((0.5,) * 3)
    assert quality.auc is not None
    assert quality.auc.value == 0.5
    assert tmp_path.exists()


def test_the_recall_of_candidates_is_over_all_later_positives() -> None:
    found = [[("fresh", "newest")], [("newest",), ("hashtags",)]]
    recall = RankedPages({}, 3, [{"a", "b"}, {"a", "c"}], found).recall(
        ["fresh", "newest", "hashtags", "sounds"], seed=0
    )
    shares = {name: share and share.value for name, share in recall.sources.items()}
    assert shares == {"fresh": 0.25, "newest": 0.5, "hashtags": 0.25, "sounds": 0.0}
    assert recall.share is not None
    assert recall.share.value == 0.75
    assert recall.share.low < 0.75 < recall.share.high


def test_the_change_is_against_the_first_row_for_the_same_users() -> None:
    shown = RankedPages({}, 3, [{"a"}, {"b"}], [], {})
    shown.pages = {"one": [[], []], "other": [[], []]}
    scored = ScoredImpressions()
    scored.users.extend([0, 0, 1, 1])
    scored.outcomes += [True, False, True, False]
    scored.scores["good"].extend([2.0, 1.0, 2.0, 1.0])
    scored.scores["bad"].extend([1.0, 2.0, 1.0, 1.0])
    scored.bounds.append(4)
    good, bad = scored.qualities(0)
    assert good.change == (0, 0, 0)
    assert bad.gauc is not None
    assert bad.change is not None
    assert bad.gauc.value == 0.25
    assert bad.change.value == -0.75
    assert bad.change.low < bad.change.value < bad.change.high
    assert [each.change for each in shown.qualities(0)] == [(0, 0, 0), (0, 0, 0)]


def test_a_sample_of_users_gives_nearly_the_intervals_that_sorting_anew_gives() -> None:
    import random  # noqa: PLC0415

    chance = random.Random(1)  # noqa: S311 - not for secrets
    scored = ScoredImpressions()
    users: dict[int, list[tuple[float, bool]]] = {}
    for user in range(150):
        taste = chance.gauss(0, 1)
        for _ in range(chance.randint(1, 12)):
            score = chance.gauss(0, 1)
            outcome = chance.random() < logistic(score + taste)
            users.setdefault(user, []).append((score, outcome))
            scored.users.append(user)
            scored.outcomes.append(outcome)
            scored.scores["some"].append(score)
    scored.bounds.append(len(scored.outcomes))
    (quality,) = scored.qualities(0)
    anew = []
    for _ in range(200):
        drawn = [each for user in chance.choices(range(150), k=150) for each in users[user]]
        found = metrics.auc([score for score, _ in drawn], [outcome for _, outcome in drawn])
        anew.append(found or 0.0)
    anew.sort()
    assert quality.auc is not None
    assert quality.auc.low == pytest.approx(anew[5], abs=0.01)
    assert quality.auc.high == pytest.approx(anew[194], abs=0.01)


@pytest.mark.parametrize("target", ["engaged", "like", "share", "save", "comment"])
def test_the_target_says_what_an_impression_is_hoped_to_lead_to(target: str) -> None:
    kinds = ["impression", "like", "unlike", "share", "comment", "save", "unsave", "report"]
    wanted = {"like", "share", "save", "comment"} if target == "engaged" else {target}
    assert {kind for kind in kinds if is_positive(target, {"kind": kind}, None)} == wanted
    whole = {"kind": "watch", "watch_ms": 9_000, "completion": None}
    assert is_positive(target, whole, 9_000) is (target == "engaged")
    assert not is_positive(target, whole, 10_001)


@pytest.mark.slow
def test_an_impression_leads_to_what_comes_in_its_slice(tmp_path: Path) -> None:
    like = {"id": "like", "user": "u", "video": "b", "kind": "like", "at": at(59)}
    found = evaluate(small_log(tmp_path, like), cutoff=CUTOFF, target="like")
    assert (found.impressions, found.positives, found.page_users) == (6, 1, 1)
    later = {**like, "at": at(61)}
    found = evaluate(small_log(tmp_path, later), cutoff=CUTOFF, target="like", every=HOUR)
    # the six of the first hour led to no like; in the second b is positive, so it counts as shown
    assert (found.impressions, found.positives, found.page_users) == (7, 1, 1)
    assert found.slices == 2


@pytest.mark.slow
def test_what_comes_at_until_or_later_is_left_out(tmp_path: Path) -> None:
    until = at(20).astimezone(timezone(2 * HOUR))
    found = evaluate(small_log(tmp_path), cutoff=CUTOFF, until=until)
    assert (found.impressions, found.impression_users, found.page_users) == (4, 1, 1)
    assert found.as_dict()["until"] == "2026-01-01T12:20:00Z"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_page_is_what_the_feed_would_serve(worlds: dict[str, Engine], kind: str) -> None:
    with Session(worlds[kind]) as session:
        catalogue = Catalogue(session, WORLD.end, SETTINGS)
        for profile in (recommender.get_profile(session, name) for name in OF_FEEDS):
            ranker = profile_ranker(profile, profile.name, OURS)
            for number in range(WORLD.viewer_count):
                user = WORLD.viewer(number)
                seen = seen_videos(session, user)
                request = PageRequest(session, user, WORLD.end, SETTINGS, catalogue, seen)
                asked = {"profile": profile.name, "as_of": WORLD.end}
                assert ranker.page(request) == names(preview(session, user, **asked))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_impression_is_scored_as_the_database_scores_it(
    worlds: dict[str, Engine], kind: str
) -> None:
    keys = [row["id"] for row in WORLD.videos()][:60]
    with Session(worlds[kind]) as session:
        for profile in (recommender.get_profile(session, name) for name in OF_FEEDS):
            ranker = profile_ranker(profile, profile.name, OURS)
            asked = {"profile": profile.name, "as_of": WORLD.end}
            page = rank(session, "ana", keys, **asked)  # type: ignore[arg-type]
            found = read_impressions(session, "ana", keys, WORLD.end, SETTINGS)
            scores = {each.video: ranker.score(each) / 1e9 for each in found}
            assert scores == {item.video: item.score for item in page.items}


def exported(engine: Engine, folder: Path) -> LogFiles:
    for kind in LOG_KINDS:
        export_file(engine, kind, str(folder / f"{kind}.csv"))
    return LogFiles(*((str(folder / f"{kind}.csv"),) for kind in LOG_KINDS))


@pytest.mark.slow
def test_a_database_and_its_files_give_the_same_on_either_scratch_database(
    worlds: dict[str, Engine], tmp_path: Path, new_database: Callable[..., str]
) -> None:
    files = exported(worlds["postgresql"], tmp_path)
    halves = tmp_path / "events.csv", tmp_path / "more.csv"
    header, *lines = halves[0].read_text().splitlines(keepends=True)
    for half, some in zip(halves, (lines[:300], lines[300:]), strict=True):
        half.write_text("".join([header, *some]))
    empty = new_database("postgresql", migrated=False)
    options: dict[str, Any] = {"cutoff": WORLD_CUTOFF, "ablate": True, "segments": True}
    first = evaluate(worlds["sqlite"], **options)
    assert first.slices == 3
    assert same(evaluate(worlds["postgresql"], scratch=empty, **options)) == same(first)
    in_parts = replace(files, events=tuple(map(str, halves)))
    assert same(evaluate(in_parts, **options)) == same(first)


Scores = dict[int, dict[str, list[float]]]
Pages = dict[str, dict[str, list[str]]]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Scores, Pages]]:
    """Evaluates; gives every score of each slice and ranker, and every page of ranker and user."""
    kept: dict[str, Any] = {}
    page_requests = _Run._page_requests

    def spy(*given: Any) -> Iterator[Any]:
        kept["users"] = []
        for request, wanted in page_requests(*given):
            kept["users"].append(request.user)
            yield request, wanted

    def keep(self: ScoredImpressions | RankedPages, _seed: int) -> tuple[Any, ...]:
        kept[type(self).__name__] = self
        return ()

    monkeypatch.setattr(_Run, "_page_requests", spy)
    monkeypatch.setattr(ScoredImpressions, "qualities", keep)
    monkeypatch.setattr(RankedPages, "qualities", keep)

    def run(source: LogFiles, **options: Any) -> tuple[Scores, Pages]:
        evaluate(source, **options)
        impressions, shown = kept["ScoredImpressions"], kept["RankedPages"]
        scores = {
            number: {name: sorted(each[begun:ended]) for name, each in impressions.scores.items()}
            for number, (begun, ended) in enumerate(pairwise(impressions.bounds), start=1)
        }
        pages = {
            name: dict(zip(kept["users"], each, strict=True)) for name, each in shown.pages.items()
        }
        return scores, pages

    return run


def world_rows() -> dict[str, list[dict[str, Any]]]:
    """The world with some videos published, and some follows made, after the cutoff."""
    videos = [dict(row) for row in WORLD.videos()]
    for place, row in enumerate(videos[::7]):
        row["published_at"] = WORLD_CUTOFF + place * 8 * HOUR
    follows = [dict(row) for row in WORLD.follows()]
    for place, row in enumerate(follows[::3]):
        row["at"] = WORLD_CUTOFF + place * 8 * HOUR
    events = []
    for event in WORLD.events():
        row = {name: getattr(event, name) for name in ("user", "video", "kind", "at")}
        events.append(
            {"id": event.key, **row, "watch_ms": event.watch_ms, "completion": event.completion}
        )
    return {
        "users": [dict(row) for row in WORLD.users()],
        "videos": videos,
        "follows": follows,
        "events": events,
    }


def changed_after(
    rows: dict[str, list[dict[str, Any]]], moment: datetime
) -> dict[str, list[dict[str, Any]]]:
    """The log with what came of each event since a time exchanged with that of another."""
    events = [dict(row) for row in rows["events"]]
    later = [row for row in events if row["at"] >= moment and row["kind"] == "watch"]
    bodies = [(row["watch_ms"], row["completion"]) for row in later]
    for row, (watch_ms, completion) in zip(later, reversed(bodies), strict=True):
        row["watch_ms"], row["completion"] = watch_ms, completion
    return {**rows, "events": events}


def deleted_after(
    rows: dict[str, list[dict[str, Any]]], moment: datetime
) -> dict[str, list[dict[str, Any]]]:
    """The log without what came since a time."""
    events = [row for row in rows["events"] if row["at"] < moment]
    named = {row["video"] for row in events}
    follows = [row for row in rows["follows"] if row["at"] < moment]
    videos = [v for v in rows["videos"] if v["published_at"] < moment or v["id"] in named]
    return {**rows, "events": events, "follows": follows, "videos": videos}


@pytest.mark.slow
def test_what_comes_after_a_slice_begins_changes_no_score_and_no_page(
    scored: Callable[..., tuple[Scores, Pages]], tmp_path: Path
) -> None:
    rows = world_rows()
    second = WORLD_CUTOFF + timedelta(days=1)
    scores, pages_then = scored(written(tmp_path, **rows), cutoff=WORLD_CUTOFF)

    known = deleted_after(rows, second)
    assert all(len(known[kind]) < len(rows[kind]) for kind in ("videos", "follows", "events"))
    found, pages_now = scored(written(tmp_path, **known), cutoff=WORLD_CUTOFF)
    assert found == {1: scores[1]}
    same_users_are_shown_the_same(pages_then, pages_now)

    for moment, until in ((WORLD_CUTOFF, 1), (second, 2)):
        changed = changed_after(rows, moment)
        found, pages_now = scored(written(tmp_path, **changed), cutoff=WORLD_CUTOFF)
        assert [found[number] == scores[number] for number in scores] == [
            number <= until for number in scores
        ]
        same_users_are_shown_the_same(pages_then, pages_now)


def same_users_are_shown_the_same(then: Pages, now: Pages) -> None:
    assert then.keys() == now.keys()
    for name in then:
        users = then[name].keys() & now[name].keys()
        assert len(users) >= 3
        assert all(then[name][user] == now[name][user] for user in users)


@pytest.mark.slow
def test_who_publishes_in_a_slice_is_not_known_to_before_it_ends(
    scored: Callable[..., tuple[Scores, Pages]], tmp_path: Path
) -> None:
    videos = [video("old", -60, hashtags=["x"]), video("other", -50)]
    own = {**video("own", 30, hashtags=["x"]), "creator": "maker"}
    events = [*watches("maker", 40, ["old", "other"]), watch("somebody", "own", 41, 1.0)]  # type: ignore[arg-type]
    later = watch("maker", "old", 70, 1.0)
    past = watch("somebody", "other", -10, 1.0)
    options: dict[str, Any] = {"cutoff": CUTOFF, "every": HOUR}
    log = written(tmp_path, videos=[*videos, own], events=[past, *events, later])
    with_own, _ = scored(log, **options)
    log = written(tmp_path, videos=videos, events=[past, *events[:2], later])
    without_own, _ = scored(log, **options)
    assert set(without_own[1]["for_you"]) < set(with_own[1]["for_you"])
    assert with_own[2]["for_you"] > without_own[2]["for_you"]


@pytest.mark.slow
def test_an_event_may_name_what_was_not_there_yet(tmp_path: Path) -> None:
    early = [*watches("x", -50, "A"), *watches("u", 10, "Ab")]
    users = [{"id": "x", "created_at": at(5)}, {"id": "u", "created_at": at(90)}]
    videos = [video("a", 100), video("b", 200)]
    found = evaluate(written(tmp_path, users=users, videos=videos, events=early), cutoff=CUTOFF)
    popular = ranking(found)["popular"].auc
    assert popular is not None
    assert (found.impressions, popular.value, found.videos, found.page_users) == (2, 1, 0, 0)
    assert found.pages == ()


def test_a_holdout_cuts_each_users_own_last_positives(tmp_path: Path) -> None:
    videos = [video(key, -600) for key in "abcdefg"]
    events = [
        *watches("many", 0, "AbCDEaFg"),
        *watches("two", 50, "AB"),
        *watches("one", 100, "Ab"),
        *watches("none", 200, "ab"),
    ]
    log = written(tmp_path, videos=videos, events=events)
    cut, end = cut_per_user(log, "engaged", 0.4, SETTINGS)
    assert cut.of_user == {"many": at(4), "two": at(51)}
    assert end == at(201)
    found = evaluate(log, holdout=0.4)
    assert (found.cutoff, found.slices, found.page_users) == (None, 1, 2)
    assert (found.impressions, found.positives) == (5, 3)
    recall = pages(found)["newest"].accuracy["recall@10"]
    assert recall is not None
    assert recall.value == 1


def test_events_of_one_time_are_cut_in_the_order_of_the_log(tmp_path: Path) -> None:
    spread = [*watches("u", 0, "ABCd"), *watches("w", 10, "dBAcb"), *watches("x", 20, "AB")]
    at_once = [{**row, "at": at()} for row in spread]
    later = []
    for rows in (spread, at_once):
        log = written(tmp_path, videos=VIDEOS, events=rows)
        cut, _ = cut_per_user(log, "engaged", 0.9, SETTINGS)
        later.append([row["id"] for n, row in enumerate(rows) if cut.is_later("events", row, n)])
        with scratch_database(None, SETTINGS) as engine:
            timeline = Timeline(engine, cut, SETTINGS)
            timeline.read(log, lambda *_: None)
        assert sorted(line.row["id"] for line in timeline.events) == sorted(later[-1])
    assert later[0] == later[1]
    assert {row["user"] for row in spread if row["id"] not in later[0]} == {"u", "w", "x"}
    with pytest.raises(InvalidValue, match="have the time 2026-01-01T12:00:00Z, which only"):
        evaluate(log, cutoff=at())


@pytest.mark.slow
def test_a_holdout_does_not_know_whom_its_user_followed_later(tmp_path: Path) -> None:
    follows = [{"user": user, "creator": "by-c", "at": at(200)} for user in ("u", "w")]
    events = [*watches("u", 0, "ABCd"), *watches("w", 0, "abd")]
    log = written(tmp_path, videos=VIDEOS, follows=follows, events=events)
    cut, _ = cut_per_user(log, "engaged", 0.3, SETTINGS)
    assert [cut.is_later("follows", row) for row in follows] == [True, False]
    found = evaluate(log, holdout=0.3)
    hit = pages(found)["following"].accuracy["hit@10"]
    assert hit == (0, 0, 0)
    assert values(ranking(found), "gauc")["following"] == 0.5


@pytest.mark.slow
def test_each_signal_is_left_out_in_turn(tmp_path: Path, engine: Engine) -> None:
    weights = {"quality": 2.0, "follows": 0.001, "social": 1.0, "freshness": 0.0}
    run_transaction(engine, lambda session: recommender.create_profile(session, "mine", weights))
    run_transaction(engine, fill)
    found = evaluate(engine, cutoff=CUTOFF, profiles=["mine", "mine@1", "for_you"], ablate=True)
    assert [each.ranker for each in found.ranking] == [each.ranker for each in found.pages]
    assert [each.ranker for each in found.ranking] == [
        "mine", "mine@1", "for_you", "classic",
        "random", "newest", "popular", "rate", "following",
        "without quality", "without follows", "without social",
    ]  # fmt: skip
    by_name = ranking(found)
    assert by_name["mine"].gauc == by_name["mine@1"].gauc == by_name["rate"].gauc
    assert by_name["without quality"].gauc == by_name["following"].gauc
    assert by_name["without social"].change == (0, 0, 0)
    assert tmp_path.exists()


def fill(session: Session) -> None:
    """The small log."""
    for row in VIDEOS:
        make_video(session, row["id"], creator=row["creator"], published_at=row["published_at"])
    for user in "uwxyz":
        make_user(session, user)
    recommender.follow(session, "u", "by-c", at=at(-5))
    events = [{"key" if n == "id" else n: v for n, v in row.items()} for row in BEFORE + AFTER]
    recommender.record_many(session, [Event(**row) for row in events])


def contents(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    with Session(engine) as session:
        return {table.name: rows_of(session, table) for table in Base.metadata.sorted_tables}


@pytest.mark.slow
def test_a_database_is_evaluated_by_its_own_rules_of_learning(engine: Engine) -> None:
    run_transaction(engine, fill)
    options: dict[str, Any] = {"cutoff": at(13), "profiles": ["likes_whom"]}
    weights = {"creator_affinity": 1.0}
    make = recommender.create_profile
    run_transaction(engine, lambda session: make(session, "likes_whom", weights))
    more = Event("again", "u", "c", "watch", at(15), completion=1.0)
    run_transaction(engine, lambda session: recommender.record_many(session, [more]))
    before = evaluate(engine, **options).ranking[0].auc
    nothing = sa.update(LearningState).values(watch_weight=0.0)
    run_transaction(engine, lambda session: session.execute(nothing))
    now = evaluate(engine, **options).ranking[0].auc
    assert before is not None
    assert now is not None
    assert before.value != now.value == 0.5


@pytest.mark.slow
def test_a_profile_with_the_name_of_a_baseline_is_not_taken_for_it(engine: Engine) -> None:
    weights = {"freshness": 1.0}
    run_transaction(engine, lambda session: recommender.create_profile(session, "rate", weights))
    run_transaction(engine, fill)
    found = ranking(evaluate(engine, cutoff=CUTOFF, profiles=["rate"]))
    assert next(iter(found)) == "rate@1"
    assert found["rate@1"].auc == found["newest"].auc != found["rate"].auc


@pytest.mark.slow
def test_nothing_of_the_source_is_written(engine: Engine) -> None:
    run_transaction(engine, fill)
    before = contents(engine)
    evaluate(engine, cutoff=CUTOFF)
    evaluate(engine, holdout=0.5)
    assert contents(engine) == before


def tables(url: str) -> list[str]:
    engine = create_engine(url)
    try:
        return sa.inspect(engine).get_table_names()
    finally:
        engine.dispose()


@pytest.mark.slow
def test_nothing_of_a_scratch_database_is_left(empty_database: str, tmp_path: Path) -> None:
    """Not even rows that a downgrade refuses: videos without a creator."""
    anonymous = [{**video, "creator": None} for video in VIDEOS]
    log = written(tmp_path, videos=anonymous, events=[*BEFORE, *AFTER])
    evaluate(log, cutoff=CUTOFF, scratch=empty_database)
    with pytest.raises(InvalidValue, match="nothing in the log comes after the cut"):
        evaluate(log, cutoff=at(1000), scratch=empty_database)
    assert tables(empty_database) == []
    evaluate(log, cutoff=CUTOFF, scratch=empty_database)
    assert tables(empty_database) == []


@pytest.mark.slow
def test_a_temporary_database_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = small_log(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    evaluate(log, cutoff=CUTOFF)
    with pytest.raises(UnknownProfile):
        evaluate(log, cutoff=CUTOFF, profiles=["nobodys"])
    assert list(temporary.iterdir()) == []


@only_sqlite
def test_a_scratch_database_that_is_in_use_is_refused(database: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="scratch: the database has this package's tables"):
        evaluate(small_log(tmp_path), cutoff=CUTOFF, scratch=database)
    assert tables(database)


@pytest.mark.slow
def test_a_video_is_new_until_a_week_before_the_slice_of_its_impression(tmp_path: Path) -> None:
    for minutes, users in ((10, 1), (8 * 24 * 60, 0)):
        log = written(tmp_path, videos=VIDEOS, events=[*BEFORE, *watches("u", minutes, "Cd")])
        found = evaluate(log, cutoff=CUTOFF, every=HOUR, segments=True).segments
        of_impressions, of_pages = (
            row for row in found if (row.segment, row.ranker) == ("new videos", "newest")
        )
        assert (of_impressions.users, of_pages.users) == (users, 1)


@pytest.mark.slow
def test_slices_without_events_are_passed_over(tmp_path: Path) -> None:
    log = small_log(tmp_path, *watches("w", 60 * 24 * 300, "b"))
    assert evaluate(log, cutoff=CUTOFF, every=timedelta(minutes=1)).slices == 7


@pytest.mark.slow
def test_progress_goes_from_stage_to_stage(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    evaluate(small_log(tmp_path), cutoff=CUTOFF, progress=lambda *each: told.append(each))
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == ["reading", "pages", "ranking"]
    for stage in stages:
        done = [part for name, part, _ in told if name == stage]
        assert done == sorted(done)
        assert done[-1] == next(total for name, _, total in told if name == stage)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "cutoff: either a cutoff or a holdout must be given, and not both"),
        ({"cutoff": CUTOFF, "holdout": 0.5}, "either a cutoff or a holdout"),
        ({"cutoff": CUTOFF, "until": CUTOFF}, "until: 2026-01-01T12:00:00Z is not after the"),
        ({"cutoff": CUTOFF.replace(tzinfo=None)}, "has no offset"),
        ({"holdout": 0.5, "until": CUTOFF}, "until: goes with a cutoff"),
        ({"holdout": 1.0}, "holdout: 1.0 is not between 0 and 1"),
        ({"cutoff": CUTOFF, "target": "love"}, "target: 'love' is not one of engaged, like"),
        ({"cutoff": CUTOFF, "every": timedelta(seconds=1)}, "every: 0:00:01 is shorter"),
        ({"cutoff": CUTOFF, "sample": 0}, "sample: 0 is no whole number of at least 1"),
        (
            {"cutoff": at(100)},
            (
                "nothing in the log comes after the cut; its events are from"
                " 2026-01-01T11:10:00Z to 2026-01-01T12:21:00Z, so give an earlier time"
            ),
        ),
        (
            {"cutoff": at(-50)},
            (
                "nothing in the log comes before the cut, so there is nothing to learn from;"
                " its events are from 2026-01-01T11:10:00Z to 2026-01-01T12:21:00Z, so give a"
                " later time"
            ),
        ),
        ({"holdout": 0.5, "target": "like"}, "holdout: no user has two videos that led to like"),
        ({"cutoff": CUTOFF, "target": "like"}, "nothing after the cut led to like, so there is"),
    ],
)
def test_what_is_asked_is_checked(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidValue, match=said):
        evaluate(small_log(tmp_path), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "said"),
    [
        (watch("u", "a", -3, 2.0), r"events.jsonl: line 14: completion: 2.0 is not between 0"),
        (watch("u", "nowhere", -3, 1.0), r"events.jsonl: line 14: there is no video 'nowhere'"),
        (watch("u", "nowhere", 3, 1.0), r"events.jsonl: line 14: there is no video 'nowhere'"),
        (watch("u", "a", 10, 0.3), r"events.jsonl: line 14: event 'u-a-10' .* recorded before"),
    ],
)
def test_bad_data_is_named(tmp_path: Path, row: Mapping[str, Any], said: str) -> None:
    # the last is only noticed where its slice is folded in
    log = small_log(tmp_path, row, *watches("w", 70, "b"))
    with pytest.raises(BadData, match=said):
        evaluate(log, cutoff=CUTOFF, every=HOUR)


def test_files_must_be_there_and_files(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    with pytest.raises(NotFound, match="there is no file"):
        evaluate(replace(log, events=("nowhere.csv",)), cutoff=CUTOFF)
    with pytest.raises(InvalidValue, match="events: no file is given"):
        LogFiles(("u",), ("v",))
    with pytest.raises(InvalidValue, match="not from standard input"):
        LogFiles(("u",), ("v",), (), ("-",))


def test_a_timeline_hides_what_a_slice_publishes_until_it_is_folded_in(tmp_path: Path) -> None:
    log = written(tmp_path, videos=[video("new", 30)], events=watches("u", 40, ["new"]))  # type: ignore[arg-type]
    with scratch_database(None, SETTINGS) as engine:
        timeline = Timeline(engine, Cut(CUTOFF), SETTINGS)
        timeline.read(log, lambda *_: None)
        (part,) = timeline.slices(CUTOFF, HOUR)
        states = []
        hidden = timeline.prepare(part)
        for step in (lambda: None, lambda: timeline.fold(part, hidden)):
            step()
            with Session(engine) as session:
                states.append(session.scalar(sa.select(models.Video.status)))
    assert states == ["review", "published"]


def reaction(user: str, key: str, kind: str, minutes: float) -> dict[str, Any]:
    about = {"user": user, "video": key, "kind": kind, "at": at(minutes)}
    return {"id": f"{user}-{key}-{kind}", **about}


def test_an_evaluation_that_learns_no_positive_says_what_to_do(tmp_path: Path) -> None:
    kinds = [("y", "impression", -50), ("z", "like", -50), ("z", "unlike", -40)]
    before = [*watches("x", -50, "ab"), *(reaction(u, "a", kind, when) for u, kind, when in kinds)]
    log = written(tmp_path, videos=VIDEOS, events=[*before, *AFTER])
    said = "no event before the cut is positive, so .*; its events are from .*, so give a later"
    with pytest.raises(InvalidValue, match=said):
        evaluate(log, cutoff=CUTOFF)


def test_a_holdout_that_leaves_no_positive_asks_for_a_smaller_one(tmp_path: Path) -> None:
    # the like of a was taken back, so b is the only positive, and it is held out
    kinds = [("a", "like", 0), ("a", "unlike", 1), ("b", "like", 2)]
    events = [reaction(user, key, kind, when) for user in "xy" for key, kind, when in kinds]
    log = written(tmp_path, videos=VIDEOS, events=events)
    with pytest.raises(InvalidValue, match="nothing to learn from; hold out a smaller part"):
        evaluate(log, holdout=0.3, target="like")


def test_a_log_of_one_time_teaches_what_comes_first_in_it(tmp_path: Path) -> None:
    # by a holdout; all other cuts of it are refused
    events = [*watches("x", 0, "DC"), *watches("y", 0, "DB"), *watches("u", 0, "AD")]
    at_once = [{**row, "at": at()} for row in events]
    log = written(tmp_path, videos=VIDEOS, events=at_once)
    found = evaluate(log, holdout=0.5)
    assert (found.impressions, found.page_users) == (3, 3)
    best = {name: each.accuracy["mrr@10"] for name, each in pages(found).items()}
    # d is known to two, a to one; x wants c, y wants b, u wants d
    assert best["popular"] is not None
    assert best["popular"].value == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "110")

    def run_one(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(["evaluate", *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_one


def files_of(log: LogFiles) -> list[str]:
    return [
        part for kind in LOG_KINDS for file in getattr(log, kind) for part in (f"--{kind}", file)
    ]


MOMENT = ("--cutoff", "2026-01-01T12:00:00Z")


@pytest.mark.slow
def test_the_command_prints_what_the_function_finds(run: Run, tmp_path: Path) -> None:
    log = small_log(tmp_path)
    more = ("--sample", "1", "--every", "1h", "--checks")
    code, out, err = run(*files_of(log), *MOMENT, *more)
    assert (code, err) == (1, "Error: not well: users\n")
    printed = json.loads(out)
    expected = evaluate(log, cutoff=CUTOFF, sample=1, every=HOUR, segments=True)
    checks = [finding.as_dict() for finding in expected.checks()]
    assert {**printed, "seconds": 0} == {**expected.as_dict(), "checks": checks, "seconds": 0}
    assert printed["segments"][0]["segment"] == "all users"
    assert [row["p_value"] for row in printed["ranking"]] == [None, *[1] * 6]
    newest = next(row for row in printed["ranking"] if row["ranker"] == "newest")
    assert newest["auc"].keys() == {"value", "low", "high"}
    assert printed["cutoff"] == MOMENT[1]
    assert printed["page_users"] == 1


def test_without_a_page_the_command_says_nothing_of_candidates(run: Run, tmp_path: Path) -> None:
    # x wants a video from after the cut, so no page at the cut can have it
    late = {**VIDEOS[0], "id": "late", "published_at": at(30)}
    events = [*BEFORE, watch("x", "late", 130, 1.0), watch("x", "d", 131, 0.0)]
    log = written(tmp_path, videos=[*VIDEOS, late], events=events)
    code, out, _ = run(*files_of(log), *MOMENT, "--every", "1h", "--format", "table")
    assert (code, "for 0 users who later wanted" in out) == (0, True)
    assert "among the candidates" not in out


def test_users_with_one_outcome_do_not_make_the_gauc_reliable(run: Run, tmp_path: Path) -> None:
    wanting = [watch(f"u{number}", "a", 10, 1.0) for number in range(20)]
    both = [watch(f"u{number}", "b", 11, 0.0) for number in range(20)]
    # without a negative there is no GAUC, and the pages can be relied on
    for others, few in ((both[:19], True), (both, False), ([], False)):
        log = written(tmp_path, videos=VIDEOS, events=[*BEFORE, *wanting, *others])
        out = run(*files_of(log), *MOMENT, "--format", "table")[1]
        assert "impressions of 20 users" in out
        assert "for 20 users who later wanted" in out
        assert ("Fewer than 20 users were measured" in out) == few


@slow_on_postgresql
def test_the_command_reads_a_database_and_prints_tables(
    run: Run, database: str, engine: Engine
) -> None:
    run_transaction(engine, fill)
    database_url = ("--database-url", database)
    tables = ("--format", "table", "--profile", "classic", "--segments")
    code, out, err = run(*database_url, *MOMENT, *tables)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 110
    assert "\nnew users        2  too few" in out
    assert "Fewer than 20 users were measured: the intervals are too narrow" in out
    first, heading, row, *_ = out.splitlines()
    assert first == "6 impressions of 2 users in 1 slice were ranked; 3 led to: engaged."
    assert heading.split() == ["ranking", "GAUC", "change", "AUC", "log", "loss", "miscalibrated"]
    assert row.split()[0] == "classic"
    assert "Pages out of 4 videos for 2 users" in out
    assert "\n100.0% of what they wanted later was among the candidates: following" in out
    holdout = ("--holdout", "per-user:0.5", "--format", "csv", "--checks")
    code, out, err = run(*database_url, *holdout)
    assert (code, err) == (1, "Error: not well: users\n")
    heading, first, *_ = out.splitlines()
    assert heading == "part,ranker,figure,value,low,high"
    assert first.startswith("ranking,for_you,gauc,")
    assert "pages,newest,coverage,0.75,," in out
    assert "candidates,all sources,recall,1.0,1.0,1.0" in out
    assert "segment: new users,popular,ndcg@20 users," in out
    assert "checks,,users,False,," in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "give either --cutoff or --holdout"),
        ((*MOMENT, "--holdout", "per-user:0.2"), 2, "give either --cutoff or --holdout"),
        ((*MOMENT, "--small-creators", "0.1"), 2, "--small-creators needs --checks"),
        ((*MOMENT, "--checks", "--small-creators", "2"), 2, "2.0 is not in the range 0<=x<=1"),
        (("--holdout", "0.2"), 2, "'0.2' is not of the form per-user:0.2"),
        (("--holdout", "per-user:.0"), 2, "is not of the form per-user:0.2"),
        ((*MOMENT, "--every", "1w"), 2, "'1w' is not a length such as 30m, 6h or 1d"),
        ((*MOMENT, "--profile", "nobodys"), 2, "Error: there is no profile 'nobodys'"),
        ((*MOMENT, "--events", "nowhere.csv"), 66, "Error: there is no file 'nowhere.csv'"),
        ((*MOMENT, "--scratch", "mysql://here"), 2, "Error: database URL: mysql"),
        (("--cutoff", "2027-01-01T00:00:00Z"), 2, "Error: nothing in the log comes after the cut"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    found, out, err = run(*files_of(small_log(tmp_path)), *arguments)
    assert (found, out) == (code, "")
    assert said in err.splitlines()[-1]
