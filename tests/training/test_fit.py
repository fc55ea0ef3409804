"""Fits of logs whose weights are known, and what of a log is learned from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    SIGNALS,
    InvalidValue,
    LogFiles,
    Settings,
    evaluate,
    export_file,
    fit,
    get_profile,
    profile_history,
    run_transaction,
)
from recommender.benchmark.demo_world import DemoWorld, load
from recommender.database.scratch import scratch_database
from recommender.evaluation import metrics
from recommender.evaluation.labels import (
    PLACES,
    recorded_signals,
    replayed_rows,
    served_rows,
    target_values,
)
from recommender.evaluation.log_files import Line
from recommender.evaluation.log_replay import Cut, ShownVideo, Slice, Timeline
from recommender.evaluation.logistic import Vector, fit_logistic
from recommender.formats import scalars
from recommender.learning.refresh import refresh
from recommender.models import FeedSession, Interaction, ServedVideo, User
from recommender.training import impressions
from recommender.training.fit import Fit
from recommender.training.impressions import Gain, ImpressionSample, Quality, Totals
from recommender.training.versions import within
from tests.support.plain_regression import Rows, plain_scores, plain_sums, scale_of
from tests.support.served_logs import (
    PAGE,
    SETTINGS,
    WEIGHTS,
    candidate,
    opened,
    place_effect,
    write_log,
)
from tests.support.worlds import at, make_user, rows_of

WORLD = DemoWorld(viewer_count=16, creator_count=24, video_count=120)
WORLD_CUTOFF = WORLD.end - timedelta(days=4)
NAMES = [signal.name for signal in SIGNALS]

on_sqlite = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)


def distances(found: Fit, weights: Mapping[str, float] = WEIGHTS) -> dict[str, float]:
    """How many standard errors each weight is from the truth."""
    return {
        name: abs(found.weights[name] - weight) / found.errors[name]
        for name, weight in weights.items()
    }


@pytest.mark.slow
def test_a_biased_log_with_places_gives_the_true_weights(engine: Engine) -> None:
    write_log(engine)
    found = fit(engine, "mine", settings=SETTINGS)
    assert max(distances(found).values()) <= 2
    assert all(found.errors[name] < 0.5 for name in WEIGHTS)
    for first in (2, 3, 5, 9, 17):
        assert found.places[f"place_{first}"] == pytest.approx(place_effect(first), abs=0.35)
    assert (found.impressions + found.held_out, found.users) == (6000, 60)
    assert fit(engine, "mine", settings=SETTINGS).weights == pytest.approx(found.weights, abs=1e-6)


def test_pages_of_a_feed_with_a_name_do_not_count(engine: Engine) -> None:
    write_log(engine, users=8, pages=2)

    def served_by_mail(session: Session) -> None:
        mail = recommender.create_feed(session, "mail").id
        session.execute(sa.update(FeedSession).values(feed_id=mail).where(FeedSession.user_id > 3))

    run_transaction(engine, served_by_mail)
    found = fit(engine, "mine", settings=SETTINGS)
    assert (found.impressions + found.held_out, found.users) == (3 * 2 * PAGE, 3)


@pytest.mark.slow
def test_what_tells_users_apart_is_not_the_worth_of_a_signal(engine: Engine) -> None:
    write_log(engine, lambda chance: [candidate(chance) for _ in range(PAGE)], eager=2.0)
    found = fit(engine, "mine", settings=SETTINGS)
    ratios = {name: found.weights[name] / weight for name, weight in WEIGHTS.items()}
    assert ratios == {name: pytest.approx(0.9, abs=0.2) for name in WEIGHTS}


@pytest.mark.slow
def test_what_is_the_same_for_each_user_has_no_weight(engine: Engine) -> None:
    def page(chance: Random) -> list[dict[str, float]]:
        same = chance.random()
        return [{**candidate(chance), "language": same} for _ in range(PAGE)]

    write_log(engine, page, pages=1, weights={**WEIGHTS, "language": 2.0})
    found = fit(engine, "mine", settings=SETTINGS)
    assert "language" in found.without_variance
    assert found.weights["language"] == 0


@pytest.mark.slow
def test_what_hardly_differs_has_no_weight(engine: Engine) -> None:
    """Back catalogues are as old as each other: the weight would decide about a new video."""

    def page(chance: Random) -> list[dict[str, float]]:
        return [
            {**candidate(chance), "freshness": chance.random() / 1_000, "language": chance.random()}
            for _ in range(PAGE)
        ]

    write_log(engine, page, weights={**WEIGHTS, "freshness": 400.0, "language": 1.0})
    found = fit(engine, "mine", settings=SETTINGS)
    assert "freshness" in found.without_variance
    assert "language" not in found.without_variance
    assert found.weights["freshness"] == 0
    assert found.cut == ()


@pytest.mark.slow
def test_an_unbiased_log_gives_the_true_weights(engine: Engine) -> None:
    write_log(engine, lambda chance: [candidate(chance) for _ in range(PAGE)], seed=2)
    assert max(distances(fit(engine, "mine", settings=SETTINGS)).values()) <= 2


@pytest.mark.slow
def test_without_places_a_biased_log_misleads(engine: Engine) -> None:
    """The correction is what the test above rests on."""
    write_log(engine, users=100)
    until = scalars.LATEST
    with opened(engine, tuple(WEIGHTS)) as sample:
        sample.add_from(served_without_places(sample))
        sample.summarise_users(until)
        names, scale = sample.scale(until)
        found = fit_logistic(
            lambda b: sample.sums(names, b, until),
            lambda b: sample.scores(names, b, until), scale, [1.0] * len(names),
        )  # fmt: skip
    estimates = zip(names, found.coefficients[1:], found.errors, strict=True)
    off = {name: abs(value - WEIGHTS[name]) / error for name, value, error in estimates}
    assert max(off.values()) > 3


def served_without_places(sample: ImpressionSample) -> Any:
    rows = served_rows(sample.features, {"engaged": 1.0}, scalars.EARLIEST, scalars.LATEST)
    return rows.with_only_columns(*rows.selected_columns[: 3 + len(sample.features)])


@pytest.mark.slow
def test_weights_too_large_are_cut_one_by_one(engine: Engine) -> None:
    def page(chance: Random) -> list[dict[str, float]]:
        return [{**candidate(chance), "freshness": chance.random() / 100} for _ in range(PAGE)]

    weights = {**WEIGHTS, "freshness": 400.0}
    write_log(engine, page, weights=weights, intercept=-3.5, seed=3)
    found = fit(engine, "mine", settings=replace(SETTINGS, fit_ridge=1e-4))
    assert (found.weights["freshness"], found.cut) == (100, ("freshness",))
    assert found.errors["follows"] == pytest.approx(0.09, rel=0.3)
    others = {name: weight for name, weight in WEIGHTS.items() if name != "freshness"}
    assert max(distances(found, others).values()) <= 3
    with Session(engine) as session:
        assert get_profile(session, "mine").weights == found.weights


def test_a_weight_is_not_refused_for_a_rounding_error() -> None:
    assert [within(weight) for weight in (100.00000000000001, -100.00000000000001, 7.5)] == [
        100, -100, 7.5,
    ]  # fmt: skip


TAKEN_BACK = {6: "like", 7: "unlike"}


@on_sqlite
def test_an_impression_is_when_it_was_first_shown(engine: Engine) -> None:
    kinds = {1: "like", 2: "impression", 3: "watch", 4: "share", 5: "watch"}
    rows = [{"user": "u", "video": "v", "kind": kind, "at": at(n)} for n, kind in kinds.items()]
    rows += [{"user": "u", "video": "w", "kind": "like", "at": at(6)}]
    rows += [{"user": "u", "video": "x", "kind": k, "at": at(n)} for n, k in TAKEN_BACK.items()]
    part = Slice(at(), at(9), [Line(row, 0, "") for row in rows])
    timeline = Timeline(engine, Cut(at()), SETTINGS, durations=dict.fromkeys("vwx"))
    shown = timeline.shown(part, ["like", "share", "save"])
    assert shown == {
        "u": {"v": ShownVideo(at(2), {"like", "share"}), "w": ShownVideo(at(6), {"like"})}
    }


@on_sqlite
def test_signals_without_variance_have_no_weight_and_are_said(engine: Engine) -> None:
    write_log(engine, users=4, pages=2)
    found = fit(engine, "mine", settings=SETTINGS)
    assert set(found.without_variance) == set(NAMES) - set(WEIGHTS)
    assert all(found.weights[name] == 0 for name in found.without_variance)
    assert set(found.errors) == set(WEIGHTS)
    assert set(found.weights) == set(NAMES)
    assert found.not_recorded == ()


def test_what_not_every_profile_recorded_has_no_weight_and_is_said(engine: Engine) -> None:
    write_log(engine, users=4, pages=2)
    weights = {name: 1.0 for name in NAMES if name not in {"quality", "likes"}}
    run_transaction(engine, lambda s: recommender.create_profile(s, "fewer", weights))
    with Session(engine) as session:
        fewer = get_profile(session, "fewer").id
    one = sa.update(ServedVideo).where(ServedVideo.user_id == 2).values(profile_id=fewer)
    run_transaction(engine, lambda session: session.execute(one))
    found = fit(engine, "mine", settings=SETTINGS)
    assert found.not_recorded == ("likes", "quality")
    assert found.weights["quality"] == 0
    assert "quality" not in found.errors
    assert "likes" not in found.without_variance


@on_sqlite
def test_a_version_keeps_what_the_fit_found(engine: Engine) -> None:
    write_log(engine, users=4, pages=2)
    found = fit(engine, "for_you", author="ana", note="first try", settings=SETTINGS)
    assert found.profile == "for_you@2"
    with Session(engine) as session:
        (_, record) = profile_history(session, "for_you")
        assert get_profile(session).label == "for_you@1"
    assert (record.source, record.author, record.note) == ("fit", "ana", "first try")
    assert record.parent == found.parent == "for_you@1"
    assert record.metrics == found.metrics()
    assert {*record.metrics, "profile", "parent", "weights"} == set(found.as_dict())


ITEM = {"session": UUID(int=1), "page": 1, "asked": 9, "score_key": 0, "sources": "",
        "explored": False, "crowded": False}  # fmt: skip


def begin(session: Session) -> int:
    """Make a user with a session; their row."""
    make_user(session)
    user = session.scalars(sa.select(User.id)).one()
    begun = {"user_id": user, "session": UUID(int=1), "next_position": 99, "rewatch": False,
             "started_at": at(), "last_at": at()}  # fmt: skip
    session.execute(sa.insert(FeedSession), [begun])
    return user


def serve_one(session: Session, video: int, profile: str = "for_you", **state: Any) -> None:
    """Serve a video to the user at its number of minutes, with a state that came of it."""
    user = session.scalars(sa.select(User.id)).one()
    profile_id = get_profile(session, profile).id
    row = {**ITEM, "user_id": user, "position": video, "video_id": video, "served_at": at(video),
           "profile_id": profile_id, "signals": {"quality": video / 100}}  # fmt: skip
    session.execute(sa.insert(ServedVideo), [row])
    if state:
        about = {"user_id": user, "video_id": video, "impressions": 1, "first_at": at(video),
                 "last_at": at(video)}  # fmt: skip
        session.execute(sa.insert(Interaction), [{**about, **state}])


def test_what_was_shown_and_new_is_learned_from(session: Session) -> None:
    user = begin(session)
    serve_one(session, 1, engaged_at=at(2))
    serve_one(session, 2)  # nobody looked at it
    serve_one(session, 3, impressions=0)
    serve_one(session, 4, first_at=at(4 - 4.9))  # a clock that is behind
    serve_one(session, 5, first_at=at(5 - 5.1), engaged_at=at(6))  # seen before
    serve_one(session, 6, "classic", engaged_at=at(6))
    serve_one(session, 7, liked_at=at(8), engaged_at=at(8), saved_at=at(8), shares=2, comments=1)
    serve_one(session, 8, shares=1)
    serve_one(session, 9, comments=1)
    serve_one(session, 10, saved_at=at(10), unsaved_at=at(11))
    values = {"engaged": 1.0, "like": 2.0, "share": 3.0, "save": 4.0, "comment": 6.0}

    def labels(since: float = -99, until: float = 99, **worth: float) -> dict[int, float]:
        rows = served_rows(["quality"], worth or values, at(since), at(until))
        return {round(row[3] * 100): row[2] * sum((worth or values).values())
                for row in session.execute(rows)}  # fmt: skip

    assert labels() == {1: 1, 4: 0, 7: 16, 8: 3, 9: 6, 10: 4}
    assert labels(like=1) == {1: 0, 4: 0, 7: 1, 8: 0, 9: 0, 10: 0}
    assert labels(4, 8).keys() == {4, 7}
    row = session.execute(served_rows(["quality"], values, at(9), at(10))).one()
    assert (row[0], row[1]) == (user, at(9))
    assert dict(zip(PLACES, row[4:], strict=True)) == {
        each: float(each == "place_9") for each in PLACES
    }
    found = recorded_signals(session.connection(), at(-99), at(99))
    assert found == (tuple(NAMES), ())


@on_sqlite
@pytest.mark.parametrize(
    ("position", "place"),
    [(1, ""), (2, "place_2"), (3, "place_3"), (4, "place_3"), (5, "place_5"), (8, "place_5"),
     (16, "place_9"), (32, "place_17"), (64, "place_33"), (65, "place_65"), (999, "place_65")],
)  # fmt: skip
def test_a_position_is_in_one_group_of_places(session: Session, position: int, place: str) -> None:
    begin(session)
    serve_one(session, position, engaged_at=at())
    row = session.execute(served_rows([], {"engaged": 1}, at(-99), scalars.LATEST)).one()
    assert [name for name, value in zip(PLACES, row[3:], strict=True) if value] == [place] * bool(
        place
    )


def drawn_sample(count: int, users: int) -> tuple[list[int], Rows]:
    chance = Random(11)  # noqa: S311
    owners = [chance.randrange(users) for _ in range(count)]
    rows = [
        ([float(chance.random() < 0.2), chance.gauss(5, 2), chance.choice([0.0, 0.5, 1.0])],
         chance.choice([0.0, 0.0, 0.25, 1.0]))
        for _ in range(count)
    ]  # fmt: skip
    return owners, rows


@pytest.fixture
def filled(shared_engine: Engine) -> Iterator[tuple[ImpressionSample, list[int], Rows]]:
    owners, rows = drawn_sample(400, 23)
    with opened(shared_engine, ["a", "b", "c", "same"]) as sample:
        sample.add(
            (owner, at(place), label, *values, 7.0)
            for place, (owner, (values, label)) in enumerate(zip(owners, rows, strict=True))
        )
        sample.summarise_users(at(CUT))
        yield sample, owners, rows


def settled(owners: Sequence[int], rows: Rows) -> Rows:
    """The rows with the owner's own logit as a first feature, the others less the owner's mean."""
    mean = math.fsum(label for _, label in rows[:CUT]) / CUT
    prior, found = SETTINGS.fit_user_prior, []
    for owner, (values, label) in zip(owners, rows, strict=True):
        own = [n for n, other in enumerate(owners) if other == owner]
        labels = [rows[n][1] for n in own if n < CUT]
        share = (math.fsum(labels) + prior * mean) / (len(labels) + prior)
        columns = zip(*(rows[n][0] for n in own), strict=True)
        means = [math.fsum(column) / len(own) for column in columns]
        centred = [value - each for value, each in zip(values, means, strict=True)]
        found.append(([math.log(share / (1 - share)), *centred], label))
    return found


def without_own(values: Sequence[Any]) -> list[Any]:
    """What is not of the feature that is the owner's own logit."""
    return [value for place, value in enumerate(values) if place != 1]


CUT = 300


def test_sums_in_sql_are_those_of_python(filled: tuple[ImpressionSample, list[int], Rows]) -> None:
    sample, owners, rows = filled
    rows, owners = settled(owners, rows)[:CUT], owners[:CUT]
    labels = math.fsum(label for _, label in rows)
    assert sample.totals(at(CUT)) == Totals(CUT, len(set(owners)), pytest.approx(labels))
    names, standard = sample.scale(at(CUT))
    assert names == ("a", "b", "c")
    scale = scale_of(rows)
    assert standard.means == pytest.approx(without_own(scale.means), abs=1e-12)
    assert standard.deviations == pytest.approx(without_own(scale.deviations))
    for b in ([0.0] * 4, [0.3, -1.0, 0.4, 2.0], [-40.0, 300.0, 9.0, -200.0]):
        found, wanted = sample.sums(names, b, at(CUT)), plain_sums(rows, with_own(b))
        assert found.loss == pytest.approx(wanted.loss, rel=1e-12)
        gradient = without_own(wanted.gradient)
        assert found.gradient == pytest.approx(gradient, rel=1e-9, abs=1e-9)
        scores = plain_scores(rows, owners, with_own(b))
        for matrix, other in (
            (found.information, wanted.information),
            (sample.scores(names, b, at(CUT)), scores),
        ):
            for row, expected in zip(matrix, without_own(other), strict=True):
                assert row == pytest.approx(without_own(expected), rel=1e-9, abs=1e-9)


def with_own(coefficients: Vector) -> list[float]:
    """The coefficients with that of the owner's own logit, which is 1."""
    return [coefficients[0], 1.0, *coefficients[1:]]


def test_quality_in_sql_is_that_of_python(filled: tuple[ImpressionSample, list[int], Rows]) -> None:
    sample, owners, rows = filled
    held = rows[CUT:]
    wanted = [label > 0 for _, label in held]
    for weights in ({"a": 0.5, "c": 1.0}, {"b": -1.0}, {}):
        order = dict(zip("abc", range(3), strict=True))
        found = [
            round(sum(w * values[order[name]] for name, w in weights.items()), 9)
            for values, _ in held
        ]
        quality = sample.quality(weights, at(CUT))
        assert quality.auc == pytest.approx(metrics.auc(found, wanted))
        of_users = []
        for user in set(owners[CUT:]):
            own = [n for n, owner in enumerate(owners[CUT:]) if owner == user]
            value = metrics.auc([found[n] for n in own], [wanted[n] for n in own])
            of_users.append((value, len(own)))
        assert quality.gauc == pytest.approx(metrics.gauc(of_users))
    b = [0.2, -0.5, 0.1, 1.0]
    count, loss = sample.loss(["a", "b", "c"], b, at(CUT))
    assert (count, loss * count) == (
        100,
        pytest.approx(plain_sums(settled(owners, rows)[CUT:], with_own(b)).loss),
    )


def test_the_gain_in_sql_is_that_of_python(
    filled: tuple[ImpressionSample, list[int], Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, owners, rows = filled
    held = list(zip(owners[CUT:], rows[CUT:], strict=True))
    units = []
    for user in set(owners[CUT:]):
        own = [row for owner, row in held if owner == user]
        wanted = [label > 0 for _, label in own]
        values = [
            metrics.auc([round(score, 9) for score in scores], wanted)
            for scores in ([0.5 * x[0] + x[2] for x, _ in own], [-x[1] for x, _ in own])
        ]
        if values[0] is not None and values[1] is not None:
            units.append((len(own), values[0] - values[1]))
    total = math.fsum(weight for weight, _ in units)
    mean = math.fsum(weight * gain for weight, gain in units) / total
    squares = math.fsum((weight * (gain - mean)) ** 2 for weight, gain in units)
    error = math.sqrt(squares * len(units) / (len(units) - 1)) / total
    weights: tuple[dict[str, float], ...] = ({"a": 0.5, "c": 1.0}, {"b": -1.0})
    assert sample.gain(*weights, at(CUT)) == Gain(len(units), None)
    monkeypatch.setattr(impressions, "MIN_COMPARED", len(units))
    found = sample.gain(*weights, at(CUT))
    assert found.interval == pytest.approx((mean, mean - 1.96 * error, mean + 1.96 * error))
    assert sample.gain(weights[0], weights[0], at(CUT)).interval == pytest.approx((0, 0, 0))
    assert sample.gain(*weights, at(9_999)) == Gain(0, None)


def test_scores_that_are_equal_on_paper_tie(shared_engine: Engine) -> None:
    with opened(shared_engine, ["a", "b"]) as sample:
        sample.add([(1, at(), 1.0, 0.1, 0.2), (1, at(), 0.0, 0.3, 0.0)])  # 0.1 + 0.2 is not 0.3
        assert sample.quality({"a": 1.0, "b": 1.0}, at()) == Quality(0.5, 0.5)


def test_a_sample_without_rows_has_no_quality(shared_engine: Engine) -> None:
    with opened(shared_engine, ["a"]) as sample:
        assert sample.time_of(0.8) is None
        assert sample.quality({"a": 1.0}, at()) == Quality(None, None)
        assert sample.totals(at()) == Totals(0, 0, 0)
        assert sample.loss(["a"], [0.0, 1.0], at()) == (0, None)


def test_the_table_is_gone_afterwards_also_after_an_error(shared_engine: Engine) -> None:
    for _ in range(2):
        with pytest.raises(sa.exc.DBAPIError), opened(shared_engine, ["a"]) as sample:
            sample.add([(1, at(), None, 0.0)])
        with shared_engine.connect() as connection:
            assert sa.inspect(connection).get_temp_table_names() == []


@pytest.fixture
def world_files(new_database: Callable[..., str], tmp_path: Any) -> LogFiles:
    engine = recommender.create_engine(new_database("sqlite"))
    load(engine, WORLD)
    kinds = ("users", "videos", "follows", "events")
    for kind in kinds:
        export_file(engine, kind, str(tmp_path / f"{kind}.csv"))
    engine.dispose()
    return LogFiles(*((str(tmp_path / f"{kind}.csv"),) for kind in kinds))


@pytest.mark.slow
def test_a_replay_learns_from_the_impressions_that_evaluate_ranks(
    engine: Engine, world_files: LogFiles
) -> None:
    ranked = evaluate(world_files, cutoff=WORLD_CUTOFF, target="like", sample=1)
    values = {"like": 1.0, "engaged": 3.0}
    with scratch_database(None, Settings()) as scratch, opened(engine, NAMES) as sample:
        timeline = Timeline(scratch, Cut(WORLD_CUTOFF), Settings())
        timeline.read(world_files, lambda *_: None)
        refresh(scratch, as_of=WORLD_CUTOFF)
        rows = list(
            replayed_rows(timeline, WORLD_CUTOFF, timedelta(days=1), values, lambda *_: None)
        )
        assert len(rows) == ranked.impressions
        assert sum(row[2] == 1 for row in rows) == ranked.positives
        assert {row[2] for row in rows} == {0, 0.75, 1}
        sample.add((*row[:2], float(row[2] == 1), *row[3:]) for row in rows)
        with Session(engine) as session:
            quality = sample.quality(get_profile(session, "for_you").weights, scalars.EARLIEST)
    assert quality.auc == pytest.approx(ranked.ranking[0].auc.value)
    assert quality.gauc == pytest.approx(ranked.ranking[0].gauc.value)


@on_sqlite
def test_a_small_log_is_replayed(engine: Engine, tmp_path: Path) -> None:
    """Two users see two videos every hour, and like the one with their hashtag."""
    lines = {
        "users": ["id,interests", "a,cats", "b,cats"],
        "videos": ["id,creator,published_at,hashtags"],
        "events": ["id,user,video,kind,at"],
    }
    for hour in range(5):
        for video, tag in ((f"v{hour}", "cats"), (f"w{hour}", "")):
            lines["videos"].append(f"{video},c,{scalars.written_time(at(-60))},{tag}")
            for minute, kind in enumerate(["impression", "like"] if tag else ["impression"]):
                when = scalars.written_time(at(60 * hour + minute + 1))
                lines["events"] += [
                    f"{user}{video}{kind},{user},{video},{kind},{when}" for user in "ab"
                ]
    for name, rows in lines.items():
        (tmp_path / name).write_text("\n".join(rows))
    users, videos, events = ((str(tmp_path / name),) for name in lines)
    found = fit(engine, "mine", log=LogFiles(users, videos, (), events), since=at())
    assert (found.source, found.profile, found.users) == ("replay", "mine@1", 2)
    assert (found.impressions + found.held_out, found.places) == (20, {})
    assert found.weights["hashtags"] > 0


@pytest.mark.slow
def test_a_replay_of_files_or_of_a_database_writes_a_version_and_nothing_else(
    engine: Engine, world_files: LogFiles, new_database: Callable[..., str]
) -> None:
    since = WORLD.beginning + timedelta(days=40)
    found = fit(engine, "mine", log=world_files, since=since)
    assert (found.source, found.profile) == ("replay", "mine@1")
    assert min(found.quality.gauc, found.before.gauc) > 0.5
    assert found.places == {}
    with Session(engine) as session:
        assert rows_of(session, Interaction.__table__) == []
    other = recommender.create_engine(new_database("sqlite"))
    load(other, WORLD)
    again = fit(engine, "mine", log=other, since=since)
    other.dispose()
    assert again.weights == pytest.approx(found.weights, abs=1e-6)
    assert again.metrics() == {**found.metrics(), "seconds": again.seconds} | {
        name: pytest.approx(getattr(found, name), abs=1e-6) for name in ("errors", "log_loss")
    }


@pytest.mark.parametrize(
    ("target", "values"),
    [
        ("engaged", {"engaged": 1}),
        ("share", {"share": 1}),
        ("engaged=1,like=3,share=0.5", {"engaged": 1, "like": 3, "share": 0.5}),
        ({"save": 2}, {"save": 2}),
    ],
)
def test_targets_are_outcomes_with_values(target: Any, values: Mapping[str, float]) -> None:
    assert target_values(target) == values


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("watch", "target: 'watch' is not one of engaged, like, share, save, comment"),
        ("", "target: '' is not one of"),
        ("like=", "target: like: '' is not a number"),
        ("like=0", "target: like: is worth nothing"),
        ("like=-1", "target: like: "),
        ("like=nan", "target: like: 'nan'"),
        ("like=1,like=2", "names an outcome twice"),
        ("like=1,share", "target: share: '' is not a number"),
        ({}, "target: no outcome is given"),
        (None, "target: None is neither text nor a mapping"),
    ],
)
def test_other_targets_are_refused(target: Any, message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        target_values(target)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "classic"}, "profile: classic is the reference formula"),
        ({"name": "people"}, "profile: people is for the list people: choose another name"),
        ({"name": "similar"}, "profile: similar is for the list similar: choose another name"),
        ({"name": "1"}, "profile: '1' is not a letter"),
        ({"target": "love"}, "target: 'love' is not one of"),
        ({"since": at(1), "until": at()}, "until: 2026-01-01T12:00:00Z is not after since"),
        (
            {"log": LogFiles(("u",), ("v",), (), ("e",))},
            "since: a replayed log needs the time that cuts it",
        ),
        ({"every": timedelta(seconds=1)}, "every: 0:00:01 is shorter than a minute"),
        ({"since": at(90_000)}, "there are no impressions to learn from"),
        ({"target": "like"}, "none of 140 impressions led to: like; choose another target"),
        ({"author": "", "since": at(90_000)}, "author: is empty"),
    ],
)
@on_sqlite
def test_what_cannot_be_fitted_is_refused_and_nothing_is_written(
    engine: Engine, options: dict[str, Any], message: str
) -> None:
    write_log(engine, users=4, pages=2)
    with pytest.raises(InvalidValue) as caught:
        fit(engine, **{"name": "mine", "settings": SETTINGS, **options})
    assert message in str(caught.value)
    with Session(engine) as session:
        assert {each.source for each in profile_history(session)} == {"hand"}


@on_sqlite
def test_one_user_says_nothing(engine: Engine) -> None:
    write_log(engine, users=1, pages=2)
    with pytest.raises(InvalidValue, match=r"impressions of 1 users .* it takes 2"):
        fit(engine, "mine", settings=SETTINGS)


@on_sqlite
def test_where_all_led_to_the_target_nothing_is_learned(engine: Engine) -> None:
    write_log(engine, users=4, pages=2)
    run_transaction(engine, lambda s: s.execute(sa.update(Interaction).values(engaged_at=at())))
    with pytest.raises(InvalidValue, match="all of 140 impressions led to: engaged"):
        fit(engine, "mine", settings=SETTINGS)
    run_transaction(engine, lambda s: s.execute(sa.update(ServedVideo).values(served_at=at())))
    with pytest.raises(InvalidValue, match="no impression is before 2026-01-01T12:00:00Z"):
        fit(engine, "mine", settings=SETTINGS)


@pytest.mark.slow
def test_the_ridge_is_a_setting(engine: Engine) -> None:
    write_log(engine, users=4, pages=2)
    weights = [
        fit(engine, "mine", settings=replace(SETTINGS, fit_ridge=ridge)).weights["quality"]
        for ridge in (1e-6, 1.0, 1e6)
    ]
    assert abs(weights[0]) > abs(weights[1]) > abs(weights[2])
    assert weights[2] == pytest.approx(0, abs=1e-3)
