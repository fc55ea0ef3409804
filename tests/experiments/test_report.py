"""The report of an experiment: figures of users that are written by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import timedelta
from random import Random
from statistics import NormalDist, fmean, variance
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender import Experiment, InvalidValue, NotFound, experiment_report
from recommender.experiments.report import ExperimentReport, VariantResult
from recommender.experiments.statistics import Comparison, ConfidenceSequence
from recommender.models import User, Video
from recommender.models.tables import (
    EXPERIMENTS,
    INTERACTIONS,
    SERVED,
    SESSIONS,
)
from tests.support.experiment_worlds import START, arm_profiles, start
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import counted_statements, make_user, make_videos

pytestmark = slow_on_postgresql

DAYS = 20

VIDEOS = 5

END = START + timedelta(days=DAYS)


def state(user: int, video: int, moment: Any, **columns: Any) -> dict[str, Any]:
    counts = ("plays", "engaged_views", "watch_ms", "shares", "comments", "reports", "conversions")
    return {
        "user_id": user, "video_id": video, "impressions": 1, "completion": 0.0,
        "first_at": moment, "last_at": moment, "engaged_at": None, **dict.fromkeys(counts, 0),
        **columns,
    }  # fmt: skip


def serve(
    session: Session, experiment: Experiment, arms: Sequence[Sequence[int]], reported: int = 0
) -> None:
    """Serve one page of five videos to each user.

    Args:
        session: the session.
        experiment: the experiment.
        arms: by arm, how many of the videos each user enjoys.
        reported: how many users of the last arm report their last video.
    """
    make_videos(session, *(f"video{number}" for number in range(VIDEOS)))
    videos = list(session.scalars(sa.select(Video.id).order_by(Video.id)))
    keys = [f"user{n}" for n in range(sum(map(len, arms)))]
    recommender.upsert_users(session, [{"id": key} for key in keys])
    ids = {key: user for user, key in session.execute(sa.select(User.id, User.key))}
    profiles = arm_profiles(session, experiment)
    sessions: list[dict[str, Any]] = []
    places: list[dict[str, Any]] = []
    states: list[dict[str, Any]] = []
    for arm, users in enumerate(arms):
        for number, enjoyed in enumerate(users):
            user = ids[keys[len(sessions)]]
            moment = START + timedelta(days=number % DAYS, hours=1)
            own = {"user_id": user, "session": UUID(int=len(sessions) + 1)}
            sessions.append({
                **own, "next_position": VIDEOS + 1, "rewatch": False, "started_at": moment,
                "last_at": moment, "experiment_id": experiment.id, "arm": arm, "pages": 2,
                "exhausted": 1, "milliseconds": 20 + number % 5,
            })  # fmt: skip
            for place, video in enumerate(videos):
                places.append({
                    **own, "position": place + 1, "video_id": video, "page": 1, "asked": 10,
                    "served_at": moment, "profile_id": profiles[arm], "score_key": 0,
                    "sources": "", "explored": False, "crowded": False, "signals": {},
                })  # fmt: skip
                reports = int(arm == len(arms) - 1 and place == 4 and number < reported)
                engaged_at = moment if place < enjoyed and not reports else None
                states.append(state(user, video, moment, engaged_at=engaged_at, reports=reports))
    for table, rows in ((SESSIONS, sessions), (SERVED, places), (INTERACTIONS, states)):
        session.execute(sa.insert(table), rows)


def the_only(report: ExperimentReport) -> VariantResult:
    (result,) = report.results
    return result


CONTROL = [1, 2] * 60

BETTER = [3, 4] * 60


def test_the_figures_are_those_of_the_users(session: Session) -> None:
    experiment = start(session, least_effect=0.1)
    serve(session, experiment, [CONTROL, BETTER])
    report = experiment_report(session, "tried", as_of=END)
    result = the_only(report)
    shares = [[enjoyed / VIDEOS for enjoyed in arm] for arm in (CONTROL, BETTER)]
    error = math.sqrt(sum(variance(arm) / len(arm) for arm in shares))
    found = Comparison(*map(fmean, shares), error)
    margin = float(ConfidenceSequence(0.05, 0.1).margin(found))
    effect = result.effect
    assert (effect.control, effect.variant) == pytest.approx((0.3, 0.7))
    assert effect.difference == pytest.approx(0.4)
    assert effect.relative == pytest.approx(4 / 3)
    assert effect.plain == pytest.approx((0.4 - 1.959964 * error, 0.4 + 1.959964 * error))
    assert effect.sequence == pytest.approx((0.4 - margin, 0.4 + margin))
    assert (result.variant, result.metric, result.users) == ("variant1@1", "engaged", (120, 120))
    assert {name: str(verdict) for name, verdict in report.verdicts.items()} == {
        "variant1@1": "better"
    }
    assert (report.days, report.users, report.left_out, report.alpha) == (DAYS, 240, 0, 0.05)
    assert report.sample_ratio.users == (120, 120)
    assert report.sample_ratio.ok


def test_the_sequence_by_day_ends_with_the_report(session: Session) -> None:
    serve(session, start(session, least_effect=0.1), [CONTROL, BETTER])
    result = the_only(experiment_report(session, "tried", as_of=END))
    assert [each.at for each in result.by_day] == [
        START + timedelta(days=day) for day in range(1, DAYS + 1)
    ]
    users = [each.users[0] for each in result.by_day]
    assert users == [6 * day for day in range(1, DAYS + 1)]
    assert [each.effect.sequence is None for each in result.by_day] == [n < 100 for n in users]
    assert result.by_day[-1].effect == result.effect
    for day in (5, 18):
        moment = START + timedelta(days=day)
        then = the_only(experiment_report(session, "tried", as_of=moment))
        assert then.effect.difference == pytest.approx(result.by_day[day - 1].effect.difference)
        assert then.users == result.by_day[day - 1].users


def test_guardrails_and_variants_share_alpha(session: Session) -> None:
    guardrails = ["reports", "page_time", "engaged"]
    experiment = start(session, 2, share=2 / 3, least_effect=0.5, guardrails=guardrails)
    serve(session, experiment, [CONTROL, CONTROL, BETTER], reported=80)
    # The reports of the control: else their relative difference is not defined.
    control = sa.select(SESSIONS.c.user_id).where(SESSIONS.c.arm == 0)
    some = INTERACTIONS.c.user_id.in_(control), INTERACTIONS.c.video_id % 3 == 0
    session.execute(
        sa.update(INTERACTIONS).where(*some, INTERACTIONS.c.user_id % 9 == 0).values(reports=1)
    )
    report = experiment_report(session, "tried", as_of=END)
    assert [(each.variant, each.metric, each.is_guardrail) for each in report.results] == [
        ("variant1@1", "engaged", False), ("variant2@1", "engaged", False),
        ("variant1@1", "reports", True), ("variant2@1", "reports", True),
        ("variant1@1", "page_time", True), ("variant2@1", "page_time", True),
    ]  # fmt: skip
    alphas = [0.05 / 2] * 2 + [0.05 / 4] * 4
    for result, alpha in zip(report.results, alphas, strict=True):
        assert result.effect.plain is not None
        # Without a past, means and plain interval give the error back.
        error = (result.effect.plain.high - result.effect.plain.low) / 2 / z_value(alpha)
        assert result.effect.control is not None
        assert result.effect.variant is not None
        found = Comparison(result.effect.control, result.effect.variant, error)
        margin = float(ConfidenceSequence(alpha, 0.5).margin(found))
        if math.isfinite(margin):
            assert result.effect.sequence == pytest.approx(
                (found.difference - margin, found.difference + margin)
            )
    assert [each.verdict.kind for each in report.results[:2]] == ["no difference", "better"]
    assert report.harmed["variant1@1"] == ()


def z_value(alpha: float) -> float:
    return NormalDist().inv_cdf(1 - alpha / 2)


def test_a_guardrail_is_harmed_if_it_moves_to_its_bad_side(session: Session) -> None:
    experiment = start(
        session, least_effect=0.3, guardrails=["engaged", "page_time"], metric="length"
    )
    serve(session, experiment, [BETTER, CONTROL])
    slower = sa.update(SESSIONS).where(SESSIONS.c.arm == 1)
    session.execute(slower.values(milliseconds=SESSIONS.c.milliseconds * 2))
    report = experiment_report(session, "tried", as_of=END)
    assert report.harmed == {"variant1@1": ("engaged", "page_time")}
    faster = sa.update(SESSIONS).where(SESSIONS.c.arm == 1)
    session.execute(faster.values(milliseconds=SESSIONS.c.milliseconds / 4))
    session.expire_all()
    assert experiment_report(session, "tried", as_of=END).harmed == {"variant1@1": ("engaged",)}


def test_a_wrong_sample_ratio_stops_the_reading(session: Session) -> None:
    experiment = start(session, least_effect=0.1, guardrails=["page_time"])
    serve(session, experiment, [CONTROL * 2, BETTER])
    report = experiment_report(session, "tried", as_of=END)
    assert report.sample_ratio.users == (240, 120)
    assert not report.sample_ratio.ok
    assert {str(each.verdict) for each in report.results} == {"no verdict"}


def test_planned_shares_that_differ_are_no_fault(session: Session) -> None:
    serve(session, start(session, share=1 / 3), [CONTROL * 2, BETTER])
    report = experiment_report(session, "tried", as_of=END)
    assert report.sample_ratio.shares == pytest.approx((2 / 3, 1 / 3))
    assert report.sample_ratio.ok


def test_without_users_there_is_nothing_to_say(session: Session) -> None:
    start(session, guardrails=["reports"])
    report = experiment_report(session, "tried")
    assert {str(each.verdict) for each in report.results} == {"go on", "not harmed"}
    assert report.sample_ratio.users == (0, 0)
    said = json.dumps(report.as_dict(), allow_nan=False)
    assert json.loads(said)["results"][0]["control"] is None


def test_a_report_can_be_sent(session: Session) -> None:
    experiment = start(session, least_effect=0.1, guardrails=["reports"])
    serve(session, experiment, [CONTROL, BETTER])
    report = experiment_report(session, "tried", as_of=END)
    sent = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert sent["experiment"] == "tried"
    assert [sent["results"][0][name] for name in ("profile", "control", "variant")] == [
        "variant1@1", pytest.approx(0.3), pytest.approx(0.7),
    ]  # fmt: skip
    assert sent["results"][0]["verdict"] == {
        "kind": "better", "least_effect": 0.1, "more_users": None, "text": "better",
    }  # fmt: skip
    assert sent["results"][0]["by_day"][-1]["at"] == "2026-03-21T07:30:00Z"
    assert sent["results"][0]["relative_sequence"]["low"] > 0
    assert sent["sample_ratio"]["ok"]


def test_a_metric_of_the_host_is_a_select_of_keys_and_numbers(session: Session) -> None:
    serve(session, start(session, least_effect=0.1), [CONTROL, BETTER])
    make_user(session, "stranger")
    orders = sa.Table(
        "orders", sa.MetaData(), sa.Column("customer", sa.Text), sa.Column("amount", sa.Integer),
        prefixes=["TEMPORARY"],
    )  # fmt: skip
    orders.create(session.connection())
    rows = [{"customer": f"user{n}", "amount": 3 + n % 2} for n in range(100)]
    rows += [{"customer": f"user{n}", "amount": 7} for n in range(120, 220)]
    rows += [{"customer": "stranger", "amount": 99}, {"customer": "no user", "amount": 99}]
    session.execute(sa.insert(orders), rows)
    session.execute(sa.update(User).where(User.key == "user0").values(key="user0-before"))
    target = sa.select(User.id).where(User.key == "user1").scalar_subquery()
    session.add(User(key="user0", merged_into=target, merged_at=START - timedelta(days=9)))
    amounts = sa.select(orders.c.customer, sa.func.sum(orders.c.amount)).group_by(orders.c.customer)
    result = the_only(experiment_report(session, "tried", as_of=END, metric=amounts))
    assert result.metric == "own"
    assert result.effect.control == pytest.approx((50 * 3 + 50 * 4) / 120)
    assert result.effect.variant == pytest.approx(700 / 120)
    assert [each.users for each in result.by_day] == [(0, 0)] * (DAYS - 1) + [(120, 120)]
    assert result.verdict.kind == "better"


def test_keys_of_users_may_be_whole_numbers(session: Session) -> None:
    serve(session, start(session), [CONTROL, BETTER])
    for user in session.scalars(sa.select(User)).all():
        user.key = user.key.replace("user", "1000")
    session.flush()
    keys = sa.select(sa.cast(User.key, sa.Integer), sa.literal(3)).where(User.key.like("1000%"))
    result = the_only(experiment_report(session, "tried", as_of=END, metric=keys))
    assert result.effect.control == 3


def test_users_are_left_out_also_if_none_counts(session: Session) -> None:
    serve(session, start(session), [[1], [1]])
    session.execute(sa.update(SESSIONS).values(started_at=START - timedelta(days=1)))
    report = experiment_report(session, "tried", as_of=END)
    assert (report.users, report.left_out) == (0, 2)


def test_another_metric_may_be_asked_for(session: Session) -> None:
    experiment = start(session, least_effect=0.1, guardrails=["engaged"])
    serve(session, experiment, [CONTROL, BETTER])
    report = experiment_report(session, "tried", as_of=END, metric="positives", alpha=0.01)
    assert [each.metric for each in report.results] == ["positives", "engaged"]
    assert report.results[0].effect.control == pytest.approx(1.5)
    assert report.alpha == 0.01


def test_users_in_two_arms_and_targets_of_a_merge_are_left_out(session: Session) -> None:
    experiment = start(session)
    serve(session, experiment, [[1] * 6, [2] * 5])
    ids = {key: user for user, key in session.execute(sa.select(User.id, User.key))}
    session.add(User(key="guest", merged_into=ids["user0"], merged_at=START + timedelta(days=1)))
    session.add(User(key="older", merged_into=ids["user1"], merged_at=START - timedelta(days=1)))
    both = {"user_id": ids["user7"], "session": UUID(int=99), "experiment_id": experiment.id}
    times = {"started_at": END - timedelta(days=1), "last_at": END}
    session.execute(
        sa.insert(SESSIONS).values(arm=0, next_position=1, rewatch=False, **both, **times)
    )
    report = experiment_report(session, "tried", as_of=END)
    assert (report.sample_ratio.users, report.users, report.left_out) == ((5, 4), 9, 2)


def test_a_stopped_experiment_ends_with_its_stop(session: Session) -> None:
    serve(session, start(session), [CONTROL, BETTER])
    stopped = sa.update(EXPERIMENTS).values(stopped_at=START + timedelta(days=10))
    session.execute(stopped)
    report = experiment_report(session, "tried", as_of=END)
    assert (report.days, report.users, report.as_of) == (10, 120, END)


@pytest.mark.parametrize("days", [3, 400])
def test_a_report_is_one_statement_for_each_metric(session: Session, days: int) -> None:
    experiment = start(session, 2, guardrails=["reports", "diversity"])
    serve(session, experiment, [[1], [2], [3]])
    with counted_statements(session.connection()) as sent:
        experiment_report(session, "tried", as_of=START + timedelta(days=days))
    assert len(sent) == 6, "the experiment, its profiles, the numbers of users, and 3 metrics"
    assert all("/* recommender.experiment" in statement for statement in sent)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "clicks"}, "metric: 'clicks' is not one of engaged, positives"),
        ({"metric": sa.select(User.key)}, "metric: the SELECT has not two columns"),
        ({"metric": ["engaged"]}, r"metric: \['engaged'\] is not one of"),
        ({"alpha": 0}, "alpha: 0 is not between 0.0001 and 0.9999"),
        ({"alpha": 1.5}, "alpha: "),
        ({"as_of": "yesterday"}, "as_of: "),
    ],
)
def test_bad_input_is_one_sentence(session: Session, options: Any, said: str) -> None:
    start(session)
    with pytest.raises(InvalidValue, match="^" + said):
        experiment_report(session, "tried", **options)


def test_an_unknown_experiment(session: Session) -> None:
    with pytest.raises(NotFound, match="there is no experiment 'tried'"):
        experiment_report(session, "tried")


def test_an_interleaved_experiment_credits_places_within_each_user(session: Session) -> None:
    experiment = start(session, interleaved=True, least_effect=0.5)
    chance = Random(3)  # noqa: S311 - not for secrets
    enjoyed = [chance.randrange(VIDEOS + 1) for _ in range(130)]
    serve(session, experiment, [enjoyed])
    variant = arm_profiles(session, experiment)[1]
    # The variant placed the first two and the fifth video.
    by_variant = SERVED.c.position.in_([1, 2, 5])
    session.execute(sa.update(SERVED).where(by_variant).values(profile_id=variant))
    of_variant = [min(n, 2) + (n == VIDEOS) for n in enjoyed]
    leads = [2 * won - n for n, won in zip(enjoyed, of_variant, strict=True)]
    report = experiment_report(session, "tried", as_of=END)
    result = the_only(report)
    control = fmean(n - won for n, won in zip(enjoyed, of_variant, strict=True))
    error = math.sqrt(variance(leads) / len(leads))
    margin = float(
        ConfidenceSequence(0.05, 0.5).margin(Comparison(control, control + fmean(leads), error))
    )
    assert result.effect.control == pytest.approx(control)
    assert result.effect.difference == pytest.approx(fmean(leads))
    assert result.effect.sequence == pytest.approx((fmean(leads) - margin, fmean(leads) + margin))
    assert (result.users, report.users, report.left_out) == ((130, 130), 130, 0)
    assert (report.sample_ratio.users, report.sample_ratio.ok) == ((130,), True)
    assert str(result.verdict) == "better"
    for metric in ("like", sa.select(User.key, User.id)):
        with pytest.raises(InvalidValue, match="an interleaved experiment compares engaged only"):
            experiment_report(session, "tried", metric=metric)
