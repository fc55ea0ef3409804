"""Weights that were learned from what people did: a new version of a profile.

The label of an impression is what it led to, as a part of the value of all that it could have led
to, so that its expectation is the value model: Σ value · probability over outcomes. A logistic
regression of it on the signals is a profile: its order is that of the expected value.

A feed orders the videos of one user: weights are learned from what differs between impressions of
the same user (`samples`). How much one viewer wants beside another is learned apart (`levels`).

Position bias: people judge what comes first otherwise than what comes late. In served pages the
group of places that a video stood in is a factor of the regression, beside the signals, and no part
of the profile, as in YouTube's ranking (Zhao and others, "Recommending What Video to Watch Next",
2019). The places kept for videos on trial hold them at any score, which tells the effect of a place
from that of a score. That the ranking chose by the signals what is seen at all needs no propensity
weights: it bends the distribution of the signals, not that of the outcome given them. What stood
below where a viewer stopped was not examined, and is left out (Craswell and others' cascade model,
2008). A replayed log does not say where videos stood, and is not corrected.
"""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Engine

from recommender.database.transactions import long_transaction, run_transaction, translate_errors
from recommender.errors import InvalidValue
from recommender.evaluation.labels import (
    PLACES,
    recorded_signals,
    replayed_rows,
    served_rows,
    target_values,
)
from recommender.evaluation.log_files import LogFiles
from recommender.evaluation.log_replay import (
    DAY,
    ENGAGED,
    Cut,
    Progress,
    no_progress,
    scratch_timeline,
)
from recommender.evaluation.logistic import fit_logistic
from recommender.ranking.profiles import get_profile
from recommender.ranking.request import Profile
from recommender.settings import Settings
from recommender.training.impressions import ImpressionSample, Quality, Totals
from recommender.training.versions import (
    MIN_USERS,
    SIGNAL_NAMES,
    LearnedVersion,
    LearnedWeights,
    check_bounds,
    check_request,
    write_version,
)
from recommender.training.viewer_bias import fit_viewer_bias


@dataclass(frozen=True, slots=True)
class Fit(LearnedVersion):
    """What a fit found. Weights and their errors are in the signals' own units, on the logit.

    Attributes:
        profile: the new version.
        parent: the profile that served until now, ``name@version``.
        source: ``served`` or ``replay``: whose impressions it learned from.
        target: the outcomes with their values.
        since, until: impressions within were looked at; None where there is no bound.
        learned_until: those that came then or later were held out.
        impressions: how many it learned from, the earlier ones.
        users: whose they are.
        mean: of their labels, 0 to 1.
        weights: of each signal.
        errors: their standard errors, over users; none of a signal that has no say.
        places: of each group of places, by its first, the effect beside the first place's.
        without_variance: signals that had one value throughout for each user: their weight is 0.
        not_recorded: signals that not all of the pages were served with: their weight is 0.
        scale: what weights and errors were multiplied by, so that no weight is too large; 1 where
            none was.
        level: what is added to the logit for the viewer, the same throughout a page: an intercept,
            and coefficients of the logit of their share of labels before (``own_share``) and of the
            mean of each signal over what they were shown until then.
        held_out: how many later impressions there are, which it did not learn from.
        auc: of the probabilities of these, the viewer's level, places and all; None where all
            labels are alike.
        log_loss: the mean loss of the same, in nats; None without any.
        quality: how well the new version's weighted sum alone ranks these, as it orders pages.
        before: how well the parent's does.
        seconds: how long it took.
    """

    profile: str
    parent: str
    source: str
    target: Mapping[str, float]
    since: datetime | None
    until: datetime | None
    learned_until: datetime
    impressions: int
    users: int
    mean: float
    weights: Mapping[str, float]
    errors: Mapping[str, float]
    places: Mapping[str, float]
    without_variance: tuple[str, ...]
    not_recorded: tuple[str, ...]
    scale: float
    level: Mapping[str, float]
    held_out: int
    auc: float | None
    log_loss: float | None
    quality: Quality
    before: Quality
    seconds: float


def fit(
    engine: Engine,
    name: str,
    *,
    target: str | Mapping[str, float] = ENGAGED,
    since: datetime | None = None,
    until: datetime | None = None,
    log: Engine | LogFiles | None = None,
    every: timedelta = DAY,
    author: str | None = None,
    note: str | None = None,
    scratch: str | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Learn the weights of a new version of a profile; it serves once it is activated.

    From the pages that the database served, or from a log that is replayed: what came before a time
    is known, and what came later is learned from, slice by slice, each as of its start. The last
    impressions (`fit_held_out` of them) are held out, and say how good the weights are. Each step
    is one statement that gives sums; impressions are in a temporary table and never leave it.

    Args:
        engine: of the database that the version is written to.
        name: of the profile, as for `create_profile`.
        target: what is hoped for: ``engaged``, ``like``, ``share``, ``save`` or ``comment``; or
            several with what each is worth, as ``engaged=1,like=3`` or a mapping.
        since: served then or later; with a log where it is cut, with an offset.
        until: what comes then or later is left out.
        log: a prepared engine whose log is replayed, or files; the served pages where None.
        every: how long a slice of the log is.
        author: who makes the version, 1 to 255 characters.
        note: why, 1 to 10,000 characters.
        scratch: as for `evaluate`.
        settings: those of the environment where None.
        progress: called with the name of a stage, how much of it is done, and of how much.

    Raises:
        InvalidValue: a value is not of its form, or the impressions say nothing.
        NotFound: there is no such file.
        BadData: a row is not in the format, or names what is not there.
        RecommenderError: the regression did not converge.
    """
    started = time.monotonic()
    settings = settings or Settings.from_environment()
    report = progress or no_progress
    values = target_values(target)
    check_request(name, author, note, every)
    start, end = check_bounds(since, until, is_replay=log is not None)
    parent = run_transaction(engine, get_profile, write=False, settings=settings)
    with translate_errors():
        if log is None:
            found = _of_served(engine, _ImpressionLearner(parent, values, settings), start, end)
        else:
            learner = _ImpressionLearner(parent, values, settings)
            found = _of_log(log, learner, Cut(start, until=end), every, scratch, report)
    return write_version(
        engine, name, found, author=author, note=note, started=started, settings=settings,
        since=since and start, until=until and end,
    )  # fmt: skip


def _of_served(engine: Engine, learner: _ImpressionLearner, start: datetime, end: datetime) -> Fit:
    """A fit of the pages that were served between two times."""
    with engine.connect() as connection:
        with long_transaction(connection, learner.settings):
            recorded, others = recorded_signals(connection, start, end)
        sample = ImpressionSample(connection, (*recorded, *PLACES), learner.settings)
        with sample.opened():
            sample.add_from(served_rows(recorded, learner.values, start, end))
            return learner.fit(sample, "served", others)


def _of_log(
    log: Engine | LogFiles,
    learner: _ImpressionLearner,
    cut: Cut,
    every: timedelta,
    scratch: str | None,
    report: Progress,
) -> Fit:
    """A fit of what came after a cut of a log, replayed in a scratch database."""
    settings = learner.settings
    with (
        scratch_timeline(cut, scratch, settings) as timeline,
        timeline.engine.connect() as connection,
    ):
        timeline.begin(log, cut.at, report)
        sample = ImpressionSample(connection, SIGNAL_NAMES, settings)
        with sample.opened():
            sample.add(replayed_rows(timeline, cut.at, every, learner.values, report))
            return learner.fit(sample, "replay", ())


@dataclass(frozen=True, slots=True)
class _ImpressionLearner:
    """What learns from a sample.

    Attributes:
        parent: the profile that served until now.
        values: of the outcomes.
        settings: those that shape the fit.
    """

    parent: Profile
    values: Mapping[str, float]
    settings: Settings

    def fit(self, sample: ImpressionSample, source: str, not_recorded: tuple[str, ...]) -> Fit:
        """The weights that a sample's earlier impressions say, and how good they are on the others.

        Raises:
            InvalidValue: the impressions say nothing.
        """
        split = sample.time_of(1 - self.settings.fit_held_out)
        if split is None:
            raise InvalidValue("there are no impressions to learn from")
        totals = sample.totals(split)
        self._check(totals)
        sample.summarise_users(split)
        names, standard = sample.scale(split)
        found = fit_logistic(
            partial(sample.sums, names, until=split),
            partial(sample.scores, names, until=split),
            standard,
            self.settings.fit_ridge,
        )
        learned = LearnedWeights.of(names, found)
        signals = [name for name in SIGNAL_NAMES if name in sample.features]
        levels = fit_viewer_bias(sample, learned.effects, signals, split)
        return Fit(
            profile="",
            parent=self.parent.label,
            source=source,
            target=self.values,
            since=None,
            until=None,
            learned_until=split,
            impressions=totals.impressions,
            users=totals.users,
            mean=totals.labels / totals.impressions,
            weights=learned.weights,
            errors=learned.errors,
            places={name: learned.effects[name] for name in PLACES if name in learned.effects},
            without_variance=_others(SIGNAL_NAMES, (*names, *not_recorded)),
            not_recorded=not_recorded,
            scale=learned.scale,
            level=levels.coefficients,
            held_out=levels.held_out,
            auc=levels.auc,
            log_loss=levels.log_loss,
            quality=_quality(sample, learned.raw, split),
            before=_quality(sample, self.parent.weights, split),
            seconds=0.0,
        )

    def _check(self, totals: Totals) -> None:
        """Refuse what nothing can be learned from."""
        if totals.users < MIN_USERS:
            raise InvalidValue(
                f"impressions of {totals.users:,} users before the last that are held out are"
                f" too few to learn from: it takes {MIN_USERS}"
            )
        if not 0 < totals.labels < totals.impressions:
            said = "all" if totals.labels else "none"
            raise InvalidValue(
                f"{said} of {totals.impressions:,} impressions led to: {', '.join(self.values)}"
            )


def _others(names: Sequence[str], known: Container[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in known)


def _quality(sample: ImpressionSample, weights: Mapping[str, float], since: datetime) -> Quality:
    """How well a profile's weights rank a sample, of the signals that it has."""
    known = {name: weight for name, weight in weights.items() if name in sample.features}
    return sample.quality(known, since)
