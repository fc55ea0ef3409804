"""Other recommenders on the same split, candidates and users: a benchmark, not a test.

    python -m tests.peers.benchmark FOLDER --cutoff 2022-05-01T16:00:00Z

FOLDER has interchange files: users*, videos*, follows* and events* or history*. implicit's
matrix factorizations and neighbours, and EASE, learn from who engaged with what; a logistic
regression and gradient-boosted trees learn from this package's signals of earlier impressions. All
are fitted anew for each slice, on what was known when it began. The extra `peers` has what it
needs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import click
import numpy as np
import sqlalchemy as sa
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender
from scipy.sparse import csr_matrix
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender import LogFiles, Settings, get_profile, refresh
from recommender.cli.evaluate import _page_row, _ranking_row
from recommender.cli.options import Length, Time
from recommender.cli.output import print_table
from recommender.database.scratch import scratch_database
from recommender.evaluation.evaluate import _Run
from recommender.evaluation.labels import Impression, read_impressions
from recommender.evaluation.log_replay import Cut, Slice, Timeline
from recommender.evaluation.rankers import (
    BASELINES,
    PageRequest,
    Ranker,
    profile_ranker,
)
from recommender.evaluation.results import ScoredImpressions
from recommender.models import Interaction, User, Video
from recommender.ranking.registry import OURS
from recommender.ranking.signals import SIGNALS

FACTORS = 64
NEAREST = 100
RIDGE = 300.0
"""EASE's regularization."""

Values = Callable[[int], np.ndarray]
"""What a fitted model gives each video for a user's row."""


def factors(new_model: Callable[[], Any]) -> Callable[[csr_matrix], Values]:
    def fit(engaged: csr_matrix) -> Values:
        model = new_model()  # implicit crashes where one is fitted again to more users
        model.fit(engaged, show_progress=False)
        return lambda row: model.item_factors @ model.user_factors[row]

    return fit


def nearest(new_model: Callable[[], Any]) -> Callable[[csr_matrix], Values]:
    def fit(engaged: csr_matrix) -> Values:
        model = new_model()
        model.fit(engaged, show_progress=False)
        return lambda row: np.asarray((engaged[row] @ model.similarity).todense()).ravel()

    return fit


def ease(engaged: csr_matrix) -> Values:
    """Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", 2019."""
    gram = np.asarray((engaged.T @ engaged).todense(), dtype=np.float32)
    gram[np.diag_indices_from(gram)] += RIDGE
    weights = np.linalg.inv(gram)
    weights /= -np.diag(weights)
    np.fill_diagonal(weights, 0)
    return lambda row: np.asarray(engaged[row] @ weights).ravel()


COLLABORATIVE: dict[str, Callable[[csr_matrix], Values]] = {
    "ALS": factors(partial(AlternatingLeastSquares, FACTORS, alpha=10, random_state=0)),
    "BPR": factors(partial(BayesianPersonalizedRanking, FACTORS, random_state=0)),
    "BM25": nearest(partial(BM25Recommender, NEAREST)),
    "item-kNN": nearest(partial(CosineRecommender, NEAREST)),
    "EASE": ease,
}


@dataclass
class Collaborative:
    """Models of who engaged with what, as of now."""

    users: dict[str, int] = field(default_factory=dict)
    videos: dict[str, int] = field(default_factory=dict)
    values: dict[str, Values] = field(default_factory=dict)
    last: dict[str, tuple[str, np.ndarray]] = field(default_factory=dict)

    def fit(self, engine: Engine) -> None:
        pairs = (
            sa.select(User.key, Video.key)
            .join(Interaction, Interaction.user_id == User.id)
            .join(Video, Video.id == Interaction.video_id)
            .where(Interaction.engaged_at.is_not(None))
        )
        with Session(engine) as session:
            videos = session.scalars(sa.select(Video.key)).all()
            found = session.execute(pairs).all()
        self.videos = {key: column for column, key in enumerate(videos)}
        self.users = {}
        rows = [self.users.setdefault(user, len(self.users)) for user, _ in found]
        columns = [self.videos[video] for _, video in found]
        shape = (len(self.users), len(self.videos))
        engaged = csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape)
        self.last = {}
        for name, fit in COLLABORATIVE.items():
            started = time.process_time()
            self.values[name] = fit(engaged)
            click.echo(f"{name} fitted in {time.process_time() - started:.0f} s (CPU)", err=True)

    def of_user(self, name: str, user: str) -> np.ndarray | None:
        """What a model gives each video, None for a user of whom nothing is known."""
        if user not in self.users:
            return None
        if self.last.get(name, ("", None))[0] != user:
            self.last[name] = user, self.values[name](self.users[user])
        return self.last[name][1]

    def ranker(self, name: str) -> Ranker:
        def score(impression: Impression) -> float:
            values = self.of_user(name, impression.user)
            column = self.videos.get(impression.video)
            return 0.0 if values is None or column is None else float(values[column])

        def page(request: PageRequest) -> list[str]:
            values = self.of_user(name, request.user)
            if values is None:
                return request.first_new(request.catalogue.popular)
            keys = list(self.videos)
            order = (keys[column] for column in np.argsort(-values, kind="stable"))
            return request.first_new(key for key in order if key in request.catalogue.videos)

        return Ranker(name, score, page)


@dataclass
class Learned:
    """Models of this package's signals, as of now; the popular fill their pages."""

    known: list[tuple[float, ...]] = field(default_factory=list)
    outcomes: list[bool] = field(default_factory=list)
    models: dict[str, Any] = field(default_factory=dict)

    def fit(self) -> None:
        self.models = {
            "logistic": make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000)),
            "trees": HistGradientBoostingClassifier(max_iter=150, learning_rate=0.05),
        }
        for model in self.models.values():
            model.fit(np.array(self.known), self.outcomes)
        weights = self.models["logistic"][-1].coef_[0] / self.models["logistic"][0].scale_
        shown = {
            signal.name: round(float(w), 3) for signal, w in zip(SIGNALS, weights, strict=True)
        }
        click.echo(f"logistic, of {len(self.known):,} impressions: {shown}", err=True)

    def ranker(self, name: str) -> Ranker:
        def score(impression: Impression) -> float:
            return float(self.models[name].predict_proba([impression.values])[0][1])

        def page(request: PageRequest) -> list[str]:
            found = request.candidates
            values = self.models[name].predict_proba([each[0] for each in found])[:, 1]
            order = np.argsort(-values, kind="stable")
            return request.first_new(found[place][3] for place in order)

        return Ranker(name, score, page)


def files_of(folder: Path) -> LogFiles:
    def named(*kinds: str) -> tuple[str, ...]:
        return tuple(str(path) for kind in kinds for path in sorted(folder.glob(f"{kind}*")))

    return LogFiles(named("users"), named("videos"), named("follows"), named("history", "events"))


def collect(run: _Run, part: Slice, learned: Learned) -> None:
    """Note the signals and outcomes of a slice's impressions."""
    with Session(run.timeline.engine) as session:
        for user, outcomes in run._shown(part).items():
            for each in read_impressions(session, user, list(outcomes), part.start, SETTINGS):
                learned.known.append(each.values)
                learned.outcomes.append(outcomes[each.video])


SETTINGS = Settings.from_environment()


def no_progress(*_: object) -> None:
    pass


@click.command()
@click.argument("folder", type=Path)
@click.option("--cutoff", type=Time(), required=True)
@click.option("--warmup", type=Length(), default="7d", help="Impressions before it to learn from.")
@click.option("--sample", type=int, default=1000)
def main(folder: Path, cutoff: Any, warmup: timedelta, sample: int) -> None:
    """Print the tables of the peers beside for_you and the baselines."""
    begun = cutoff - warmup
    with scratch_database(None, SETTINGS) as engine:
        timeline = Timeline(engine, Cut(begun), SETTINGS)
        timeline.read(files_of(folder), no_progress)
        with Session(engine) as session:
            for_you = profile_ranker(get_profile(session, "for_you"), "for_you", OURS)
        people, learned = Collaborative(), Learned()
        rankers: Sequence[Ranker] = [
            for_you,
            *BASELINES,
            *(people.ranker(name) for name in COLLABORATIVE),
            *(learned.ranker(name) for name in ("logistic", "trees")),
        ]
        run = _Run(timeline, rankers, "engaged", cutoff, timedelta(days=1), no_progress)
        scored, numbers, shown = ScoredImpressions(), {}, None
        for part in timeline.slices(begun, timedelta(days=1)):
            click.echo(f"slice of {part.start}", err=True)
            timeline.catch_up(part.start)
            refresh(engine, as_of=part.start, settings=SETTINGS)
            if part.start >= cutoff:
                people.fit(engine)
                learned.fit()
                if shown is None:
                    later = [line for line in timeline.events if line.row["at"] >= cutoff]
                    view = replace(run, timeline=replace(timeline, events=later))
                    shown = view.rank_pages(sample, 0)
            hidden = timeline.prepare(part)
            if part.start >= cutoff:
                for _ in run._score(part, scored, numbers):
                    pass
                scored.bounds.append(len(scored.outcomes))
            collect(run, part, learned)
            timeline.fold(part, hidden)
    print_table([_ranking_row(each) for each in scored.qualities(0)])
    print_table([_page_row(each) for each in shown.qualities(0)] if shown else [])


if __name__ == "__main__":
    main()
