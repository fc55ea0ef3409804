"""The end of an experiment: what `promote` may name."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

import recommender
from recommender import (
    InvalidValue,
    UnknownFeed,
    get_experiment,
    start_experiment,
    stop_experiment,
)
from tests.support.kinds import slow_on_postgresql

pytestmark = slow_on_postgresql


def test_a_name_of_two_arms_promotes_none_of_them(session: Session) -> None:
    recommender.create_profile(session, "old", {"freshness": -1.0})
    recommender.create_profile(session, "old", {"freshness": -2.0})
    start_experiment(session, "tried", ["old@2"], control="old@1")
    with pytest.raises(
        InvalidValue, match=r"^promote: 'old' is several arms: name one of old@1, old@2$"
    ):
        stop_experiment(session, "tried", promote="old")
    assert get_experiment(session, "tried").stopped_at is None
    assert stop_experiment(session, "tried", promote="old@2").promoted == "old@2"


def test_no_arm_is_promoted_in_a_deleted_feed(session: Session) -> None:
    recommender.create_profile(session, "old", {"freshness": -1.0})
    recommender.create_feed(session, "reels")
    start_experiment(session, "tried", ["old"], feed="reels")
    recommender.delete_feed(session, "reels")
    with pytest.raises(UnknownFeed):
        stop_experiment(session, "tried", promote="old")
    assert get_experiment(session, "tried").stopped_at is None
    assert stop_experiment(session, "tried").promoted is None
