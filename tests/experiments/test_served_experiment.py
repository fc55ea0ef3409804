"""An experiment from its start to its verdict, on pages that For You served."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

import recommender
from recommender.experiments import statistics
from tests.support.experiment_worlds import START, start
from tests.support.worlds import make_video

USERS = 24

MINUTE = timedelta(minutes=1)


def test_users_who_were_served_are_counted_in_the_arm_that_served_them(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "MIN_USERS", 2)
    start(session, metric="positives")
    for number in range(6):
        make_video(session, f"video{number}", published_at=START - MINUTE)
    recommender.upsert_users(session, [{"id": f"user{number}"} for number in range(USERS)])
    enjoyed: dict[int, list[int]] = {0: [], 1: []}
    for number in range(USERS):
        moment = START + (1 + number) * MINUTE
        page = recommender.for_you(session, f"user{number}", limit=4, as_of=moment)
        assert page.request.arm is not None
        # Viewers of the variant enjoy two or three videos, the others one or two.
        liked = 1 + page.request.arm.number + number % 2
        enjoyed[page.request.arm.number].append(liked)
        for item in page.items[:liked]:
            recommender.record(session, f"user{number}", item.video, "like", at=moment + MINUTE)
    recommender.for_you(session, "user0", profile="for_you", as_of=START + MINUTE)
    report = recommender.experiment_report(session, "tried", as_of=START + timedelta(hours=1))
    (result,) = report.results
    assert result.users == report.sample_ratio.users == tuple(map(len, enjoyed.values()))
    means = [sum(arm) / len(arm) for arm in enjoyed.values()]
    assert (result.effect.control, result.effect.variant) == pytest.approx(tuple(means))
    assert report.left_out == 0
    assert result.effect.sequence is not None
