"""The sentences of `replay` about its estimate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from recommender.cli.replay import _remarks
from recommender.evaluation.bootstrap import Interval
from recommender.evaluation.off_policy_estimator import Expectation, Reordered

ANY = Interval(0.5, 0.4, 0.6)
EFFECTS = Reordered(ANY, ANY, {1: 1.0, 2: 0.5}, 9.0, 0, 12, 3)


def remarks(reordered: Reordered | None, by_exploration: Reordered | None) -> list[str]:
    hindsight = Expectation(9, ANY, reordered, by_exploration, ANY, ANY)
    result: Any = SimpleNamespace(hindsight=hindsight, left_out=0, is_flattered=False)
    return list(_remarks(result))


def test_effects_by_exploration_stand_alone_if_ranked_videos_tell_none() -> None:
    on_trial = "from 12 videos on trial, 3 of them positive: 1 1.00, 2 0.50."
    assert remarks(EFFECTS, EFFECTS)[-1] == f"The same, {on_trial}"
    none = "No positive video can be compared with another of about the same score"
    assert remarks(None, EFFECTS) == [f"{none}.", f"Effects of places, {on_trial}"]
    assert remarks(None, None) == [f"{none}, so the effects of places are unknown."]
