"""Learn the weights of a new profile version from impressions.

The label of an impression is the value of its outcomes, as a share of the maximum value. Its
expectation is the value model, Σ value · probability. The weights are the coefficients of a
logistic regression of the label on the signals, so they order by the expected value.

Weights are learned from differences between the impressions of one user, see `impressions`. The
general level of a viewer is learned separately, see `viewer_bias`.

Position bias: viewers judge early positions differently from late ones. In served pages the group
of positions is a factor of the regression and not part of the profile, as in YouTube's ranking
(Zhao and others, "Recommending What Video to Watch Next", 2019). Exploration candidates appear at
any score, which separates the effects of position and score. Positions that the viewer
did not reach are left out (cascade model: Craswell and others, 2008). A replayed log has no
positions and is not corrected.
"""

# Selection by the ranking needs no propensity weights: it changes the distribution of the signals,
# not the distribution of the outcome given the signals.

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Engine

from recommender.database.registered import kept_registry
from recommender.database.transactions import long_transaction, run_transaction, translate_errors
from recommender.errors import InvalidValue
from recommender.evaluation.bootstrap import Interval
from recommender.evaluation.labels import (
    PLACES,
    recorded_signals,
    replayed_rows,
    served_rows,
    target_values,
)
from recommender.evaluation.log_files import ENGAGED, LogFiles
from recommender.evaluation.log_replay import (
    DAY,
    Cut,
    Progress,
    Timeline,
    no_progress,
    scratch_timeline,
)
from recommender.evaluation.logistic import fit_logistic
from recommender.formats import scalars
from recommender.ranking.profiles import get_profile
from recommender.ranking.registry import known_registry
from recommender.ranking.request import Profile
from recommender.settings import Settings
from recommender.telemetry import traced
from recommender.training.impressions import ImpressionSample, Quality, Totals
from recommender.training.versions import (
    MIN_USERS,
    LearnedVersion,
    LearnedWeights,
    check_bounds,
    check_request,
    ridges_of,
    without_constants,
    write_version,
)
from recommender.training.viewer_bias import fit_viewer_bias

_REMEDIES = {
    "served": "record the pages that you serve and their events, or replay a log",
    "replay": "the log has no watch and no impression after the cut",
}
"""What to do if there are no impressions, by their origin."""


@dataclass(frozen=True, slots=True)
class Fit(LearnedVersion):
    """The results of a fit over impressions. Weights and errors are in the units of the signals.

    Attributes:
        profile: the new version, ``name@version``.
        parent: the profile that was active, ``name@version``.
        source: ``served`` or ``replay``, the origin of the impressions.
        target: the outcomes with their values.
        since, until: the bounds of the impressions; None without a bound.
        learned_until: impressions at this time or later were held out.
        impressions: the number of impressions learned from.
        users: the number of their users.
        mean: their mean label, 0 to 1.
        weights: the weight of every signal, on the logit.
        errors: standard errors over users, of the signals with a coefficient.
        places: the effect of every group of positions, relative to position 1.
        without_variance: signals that hardly differed within users; their weight is 0.
        not_recorded: signals that some pages were served without; their weight is 0.
        cut: signals whose weight was cut to the bound.
        level: the viewer bias on the logit: an intercept, and coefficients of the logit of the
            earlier share of labels (``own_share``) and of the mean of every signal so far.
        held_out: the number of held-out impressions.
        auc: of their probabilities with viewer bias and positions; None if all labels are alike.
        log_loss: the mean loss of the same, in nats; None without any.
        quality: the ranking quality of the new weighted sum on the held-out impressions.
        before: the same for the parent.
        compared: the number of held-out users with both outcomes.
        gain: the GAUC of the new weighted sum less that of the parent, over these users; None if
            they are too few.
        seconds: the duration.
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
    cut: tuple[str, ...]
    level: Mapping[str, float]
    held_out: int
    auc: float | None
    log_loss: float | None
    quality: Quality
    before: Quality
    compared: int
    gain: Interval | None
    seconds: float


@traced
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
    """Learn the weights of a new profile version; it serves once it is activated.

    The impressions come from served pages, or from a replayed log, where each slice has its signals
    as of its start. The last impressions (`fit_held_out`, a share) are held out to measure the
    result. Impressions stay in a temporary table, and each step is one statement.

    Args:
        engine: of the database to write the version to.
        name: the name of the profile, as for `create_profile`.
        target: one of `TARGETS`, such as ``engaged`` or ``like``; or several with their
            values, as ``engaged=1,like=3`` or a mapping.
        since: the start of the served pages, or the cut of a log, with an offset.
        until: impressions at this time or later are left out.
        log: a prepared engine whose log is replayed, or files; None for the served pages.
        every: the length of a slice of the log.
        author: the author of the version, 1 to 255 characters.
        note: the reason for it, 1 to 10,000 characters.
        scratch: as for `evaluate`.
        settings: read from the environment if None.
        progress: called with the name of a stage, the amount done, and the total amount.

    Raises:
        InvalidValue: a value is malformed, or the impressions do not determine any weight.
        NotFound: there is no such file.
        BadData: a row is not in the format, or names an unknown user or video.
        RecommenderError: the regression did not converge.
    """
    started = time.monotonic()
    settings = settings or Settings.from_environment()
    report = progress or no_progress
    values = target_values(target)
    check_request(name, author, note, every)
    start, end = check_bounds(since, until, is_replay=log is not None)
    parent = run_transaction(engine, get_profile, write=False, settings=settings)
    signals = tuple(known_registry(kept_registry(engine)).every_signal)
    learner = _ImpressionLearner(parent, values, signals, settings)
    with translate_errors():
        if log is None:
            result = _of_served(engine, learner, start, end)
        else:
            cut = Cut(start, until=end)
            with scratch_timeline(cut, scratch, settings, engine) as timeline:
                timeline.begin(log, start, report)
                result = _of_log(timeline, learner, every, report)
    return write_version(
        engine, name, result, author=author, note=note, started=started, settings=settings,
        since=since and start, until=until and end,
    )  # fmt: skip


def _of_served(engine: Engine, learner: _ImpressionLearner, start: datetime, end: datetime) -> Fit:
    """Fit the pages that were served between two times."""
    with engine.connect() as connection:
        with long_transaction(connection, learner.settings):
            recorded, others = recorded_signals(connection, start, end)
        sample = ImpressionSample(connection, (*recorded, *PLACES), learner.settings)
        with sample.opened():
            sample.add_from(served_rows(recorded, learner.values, start, end))
            return learner.fit(sample, "served", others)


def _of_log(
    timeline: Timeline, learner: _ImpressionLearner, every: timedelta, report: Progress
) -> Fit:
    """Fit the later part of a log, replayed in a scratch database."""
    with timeline.engine.connect() as connection:
        sample = ImpressionSample(connection, learner.signals, learner.settings)
        with sample.opened():
            sample.add(replayed_rows(timeline, timeline.cut.at, every, learner.values, report))
            return learner.fit(sample, "replay", ())


@dataclass(frozen=True, slots=True)
class _ImpressionLearner:
    """The parameters of a fit over impressions.

    Attributes:
        parent: the profile that is active.
        values: the values of the outcomes.
        signals: the names of all signals.
        settings: the settings of the fit.
    """

    parent: Profile
    values: Mapping[str, float]
    signals: tuple[str, ...]
    settings: Settings

    def fit(self, sample: ImpressionSample, source: str, not_recorded: tuple[str, ...]) -> Fit:
        """Learn from the earlier impressions of a sample, and measure on the held-out ones.

        Raises:
            InvalidValue: the impressions do not determine any weight.
        """
        split = sample.time_of(1 - self.settings.fit_held_out)
        if split is None:
            raise InvalidValue(f"there are no impressions to learn from: {_REMEDIES[source]}")
        totals = sample.totals(split)
        self._check(totals, split)
        sample.summarise_users(split)
        names, standard = without_constants(*sample.scale(split), self.settings)
        if not set(names).intersection(self.signals):
            raise InvalidValue(
                f"no signal differs within the users of {totals.impressions:,} impressions by more"
                " than fit_least_deviation: learn from a longer time"
            )
        regression = fit_logistic(
            partial(sample.sums, names, until=split),
            partial(sample.scores, names, until=split),
            standard,
            ridges_of(standard, self.settings),
        )
        learned = LearnedWeights.of(names, regression, self.signals)
        signals = [name for name in self.signals if name in sample.features]
        levels = fit_viewer_bias(sample, learned.effects, signals, split)
        parent = _known(self.parent.weights, sample)
        weights = _known(learned.weights, sample)
        gain = sample.gain(weights, parent, split)
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
            without_variance=_others(self.signals, (*names, *not_recorded)),
            not_recorded=not_recorded,
            cut=learned.cut,
            level=levels.coefficients,
            held_out=levels.held_out,
            auc=levels.auc,
            log_loss=levels.log_loss,
            quality=sample.quality(weights, split),
            before=sample.quality(parent, split),
            compared=gain.users,
            gain=gain.interval,
            seconds=0.0,
        )

    def _check(self, totals: Totals, split: datetime) -> None:
        """Raise `InvalidValue` if nothing can be learned from the impressions."""
        if not totals.impressions:
            raise InvalidValue(
                f"no impression is before {scalars.written_time(split)}, the time from which the"
                " last are held out: learn from impressions of different times"
            )
        if totals.users < MIN_USERS:
            raise InvalidValue(
                f"impressions of {totals.users:,} users before the last that are held out are"
                f" too few to learn from: it takes {MIN_USERS}; learn from a longer time"
            )
        if not 0 < totals.labels < totals.impressions:
            share = "all" if totals.labels else "none"
            raise InvalidValue(
                f"{share} of {totals.impressions:,} impressions led to: {', '.join(self.values)};"
                " choose another target, or a longer time"
            )


def _others(names: Sequence[str], known: Container[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in known)


def _known(weights: Mapping[str, float], sample: ImpressionSample) -> dict[str, float]:
    """Return the weights of the sample's signals."""
    return {name: weight for name, weight in weights.items() if name in sample.features}
