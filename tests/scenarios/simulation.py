"""Measure For You on simulated viewers with hidden tastes: `python -m tests.scenarios.simulation`.

It prints the share of engaged views per day. The same viewers also get random pages and pages of
popular videos, for comparison.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from unittest.mock import patch
from uuid import UUID

from recommender import create_engine
from recommender.benchmark import chart
from recommender.database import migrations
from recommender.feed import resumed
from tests.support.simulated_viewers import (
    Day,
    ForYou,
    Simulation,
    popular_feed,
    random_feed,
    simulate,
)

SERIES = {
    "for you": ("for_you", "everybody"),
    "for you (drifting)": ("for_you", "drifting"),
    "for you (others)": ("for_you", "steady"),
    "popular": ("popular", "everybody"),
    "random": ("random", "everybody"),
}
"""The names of the curves: a feed, and a group of viewers."""

Days = Mapping[str, Sequence[Day]]


@contextmanager
def seeded_sessions(seed: int = 0) -> Iterator[None]:
    """Give sessions of For You the same names every time, and so the same random choices."""
    chance = Random(seed)  # noqa: S311 - a simulation, not a secret
    with patch.object(resumed, "uuid4", lambda: UUID(int=chance.getrandbits(128), version=4)):
        yield


def run(simulation: Simulation, database_url: str) -> Days:
    """Return the days of all feeds. For You runs in an empty database."""
    migrations.upgrade(database_url)
    engine = create_engine(database_url)
    feeds = {
        "random": random_feed(simulation.seed),
        "popular": popular_feed(),
        "for_you": ForYou(engine, simulation.users()),
    }
    with seeded_sessions(simulation.seed):
        days = {name: list(simulate(simulation, each)) for name, each in feeds.items()}
    engine.dispose()
    return days


def curves(days: Days) -> dict[str, list[float]]:
    """Return the daily share of engaged views per curve."""
    return {
        name: [round(getattr(day, whose).engaged_share, 4) for day in days[of]]
        for name, (of, whose) in SERIES.items()
    }


def rows(days: Days) -> Iterator[list[str]]:
    """Yield the curves as a table with a heading."""
    shares = curves(days)
    yield ["day", *shares]
    for number, figures in enumerate(zip(*shares.values(), strict=True)):
        yield [str(number), *(f"{figure:.3f}" for figure in figures)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.scenarios.simulation", description=__doc__
    )
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--viewers", type=int, default=40)
    parser.add_argument("--videos", type=int, default=6_000, help="at first")
    parser.add_argument("--new-each-day", type=int, default=120)
    parser.add_argument("--seed", type=int, default=26)
    parser.add_argument("--drift", type=int, help="the day of the drift; half of the days if none")
    parser.add_argument("--database-url", help="an empty database; a temporary one if none")
    parser.add_argument("--png", type=Path)
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args(arguments)
    drift = given.days // 2 if given.drift is None else given.drift
    simulation = Simulation(
        seed=given.seed,
        viewer_count=given.viewers,
        video_count=given.videos,
        new_each_day=given.new_each_day,
        days=given.days,
        drift=drift,
    )
    with tempfile.TemporaryDirectory() as folder:
        days = run(simulation, given.database_url or f"sqlite:///{folder}/simulation.db")
    for row in rows(days):
        sys.stdout.write("  ".join(f"{cell:>18}" for cell in row) + "\n")
    if given.csv:
        with given.csv.open("w", newline="") as file:
            csv.writer(file).writerows(rows(days))
    if given.png:
        title = f"{given.viewers} viewers with hidden tastes; half of them change on day {drift}"
        chart.plot(
            given.png, title, curves(days), horizontal="day", vertical="share of engaged views",
            marked=drift,
        )  # fmt: skip


if __name__ == "__main__":
    main()
