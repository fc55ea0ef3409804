"""Logs of served pages whose true weights are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    Settings,
    get_profile,
    run_transaction,
)
from recommender.evaluation.logistic import logistic
from recommender.models import FeedSession, Interaction, ServedVideo
from recommender.training.impressions import ImpressionSample
from tests.support.worlds import at

WEIGHTS = {"follows": 1.0, "collaborative": 2.0, "quality": 3.0, "freshness": -0.8, "hashtags": 0.3}


INTERCEPT = -1.5


PAGE = 20


SETTINGS = Settings(fit_held_out=0.1)


def place_effect(position: int) -> float:
    """Return the logit of a place: users engage less with later places."""
    return -0.45 * int(math.log2(position))


def candidate(chance: Random) -> dict[str, float]:
    return {
        "follows": float(chance.random() < 0.3),
        "collaborative": chance.random() ** 2,
        "quality": min(1.0, max(0.0, chance.gauss(0.4, 0.12))),
        "freshness": chance.random(),
        "hashtags": float(chance.choice([0, 0, 0, 1, 2, 3])),
    }


def score(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    return sum(weights[name] * value for name, value in values.items())


def biased_page(chance: Random) -> list[dict[str, float]]:
    """Return the best candidates by the true weights, with a random one at every tenth place."""
    found = sorted((candidate(chance) for _ in range(4 * PAGE)), key=lambda v: -score(v, WEIGHTS))
    return [chance.choice(found) if chance.random() < 0.1 else found[n] for n in range(PAGE)]


def write_log(
    engine: Engine,
    page: Callable[[Random], list[dict[str, float]]] = biased_page,
    *,
    users: int = 60,
    pages: int = 5,
    weights: Mapping[str, float] = WEIGHTS,
    intercept: float = INTERCEPT,
    seed: int = 0,
    eager: float = 0.0,
) -> None:
    """Write served pages, and the engagements that follow from the true weights and places.

    Every second user likes all videos by so much more, and has a collaborative signal twice as high
    for it.
    """
    chance = Random(seed)  # noqa: S311 - not for secrets
    sessions, served, states = [], [], []
    with Session(engine) as session:
        profile_id = get_profile(session).id
    for user in range(1, users + 1):
        for number in range(pages):
            name, moment = UUID(int=user * 1000 + number), at(60 * number + user)
            sessions.append(
                {"user_id": user, "session": name, "next_position": PAGE + 1, "rewatch": False,
                 "started_at": moment, "last_at": moment}
            )  # fmt: skip
            for position, values in enumerate(page(chance), start=1):
                video = number * PAGE + position
                is_eager = bool(eager and user % 2)
                values["collaborative"] *= 1 + is_eager
                logit = intercept + score(values, weights) + place_effect(position)
                logit += eager * is_eager
                is_wanted = chance.random() < logistic(logit)
                served.append(
                    {"user_id": user, "session": name, "position": position, "video_id": video,
                     "page": 1, "asked": PAGE, "served_at": moment, "profile_id": profile_id,
                     "score_key": 0, "sources": "", "explored": False, "crowded": False,
                     "signals": {each: v for each, v in values.items() if v}}
                )  # fmt: skip
                states.append(
                    {"user_id": user, "video_id": video, "impressions": 1, "first_at": moment,
                     "last_at": moment, "engaged_at": moment if is_wanted else None}
                )  # fmt: skip

    def write(session: Session) -> None:
        recommender.upsert_users(session, [{"id": f"u{n}"} for n in range(1, users + 1)])
        for model, rows in ((FeedSession, sessions), (ServedVideo, served), (Interaction, states)):
            session.execute(sa.insert(model), rows)

    run_transaction(engine, write)


class opened:  # noqa: N801 - it reads as the function that it is
    """Open a sample, whose table is on a connection of the engine."""

    def __init__(self, engine: Engine, features: Sequence[str]) -> None:
        self.connection = engine.connect()
        self.sample = ImpressionSample(self.connection, tuple(features), SETTINGS).opened()

    def __enter__(self) -> ImpressionSample:
        return self.sample.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self.sample.__exit__(*raised)
        self.connection.close()
