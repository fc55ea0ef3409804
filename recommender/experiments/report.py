"""The report of an experiment: verdicts, and the numbers that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import lazy_loader
import sqlalchemy as sa

from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.database.session import Session
from recommender.errors import InvalidValue
from recommender.experiments.experiments import Experiment, get_experiment
from recommender.experiments.interleaving import CONTROL_CREDIT, LEAD, compare_credit
from recommender.experiments.metrics import USER_METRICS, own_metric
from recommender.experiments.statistics import (
    RATIO_ALPHA,
    Comparison,
    ConfidenceSequence,
    Sums,
    compare,
    ratio_p_value,
)
from recommender.experiments.user_sums import Scope, UserMetric, population, sums
from recommender.experiments.verdict import (
    Effect,
    Verdict,
    corrected,
    effect_of,
    guardrail_of,
    verdict_of,
)
from recommender.feed.resolve import reading_time
from recommender.formats import scalars
from recommender.formats.experiments import FEWER_IS_BETTER, INTERLEAVED
from recommender.formats.plain import plain
from recommender.models.tables import EXPERIMENTS
from recommender.telemetry import traced

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_loader.load("numpy")  # whatever reports no experiment starts without it

MIN_ALPHA = 0.0001
"""The smallest chance of a false alarm. Tails of means are not known to be normal beyond it."""

OWN = "own"
"""The name of a metric that the caller gave as a SELECT."""


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """Whether the numbers of users fit the planned shares.

    Attributes:
        users: the users of each arm, the control first.
        shares: the planned shares.
        p_value: of a test that holds however often one looks, 0 to 1.
    """

    users: tuple[int, ...]
    shares: tuple[float, ...]
    p_value: float

    @property
    def ok(self) -> bool:
        """False if the numbers do not fit. Then there is no verdict."""
        return self.p_value >= RATIO_ALPHA

    def as_dict(self) -> dict[str, Any]:
        """Return the check as JSON."""
        return {
            "users": list(self.users),
            "shares": list(self.shares),
            "p_value": self.p_value,
            "ok": self.ok,
        }


@dataclass(frozen=True, slots=True)
class DailyEffect:
    """The effect as it was at a time of the experiment.

    Attributes:
        at: the time.
        users: the users of the control and of the variant.
        effect: the difference, with its intervals.
    """

    at: datetime
    users: tuple[int, int]
    effect: Effect

    def as_dict(self) -> dict[str, Any]:
        """Return the effect as JSON."""
        return {"at": plain(self.at), "users": list(self.users), **self.effect.as_dict()}


@dataclass(frozen=True, slots=True)
class VariantResult:
    """A variant compared with the control in one metric.

    Attributes:
        variant: its profile, ``name@version``.
        metric: the metric, or ``own``.
        is_guardrail: whether it is a guardrail.
        users: the users of the control and of the variant that the metric counts.
        effect: the difference, with its intervals.
        verdict: what to think of it.
        by_day: the effect as it was at the end of each day, or of each 60th of a longer time. What
            places led to since then is included.
    """

    variant: str
    metric: str
    is_guardrail: bool
    users: tuple[int, int]
    effect: Effect
    verdict: Verdict
    by_day: tuple[DailyEffect, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON: `profile` is the variant, `variant` its mean outcome."""
        return {
            "profile": self.variant,
            "metric": self.metric,
            "guardrail": self.is_guardrail,
            "users": list(self.users),
            **self.effect.as_dict(),
            "verdict": self.verdict.as_dict(),
            "by_day": [each.as_dict() for each in self.by_day],
        }


@dataclass(frozen=True, slots=True)
class ExperimentReport:
    """The report of an experiment.

    Attributes:
        experiment: the experiment.
        as_of: the reading time in UTC.
        days: the time since its start, or until it was stopped.
        alpha: the chance of any false alarm by the metric, and of any by a guardrail.
        metric: the metric that decides, or ``own``.
        users: the users that count.
        left_out: the users with sessions in the experiment that do not count: they were in two
            arms, or another user was merged into them since the start.
        sample_ratio: whether the numbers of users fit the planned shares.
        results: the metric for each variant, then the guardrails.
    """

    experiment: Experiment
    as_of: datetime
    days: float
    alpha: float
    metric: str
    users: int
    left_out: int
    sample_ratio: SampleRatio
    results: tuple[VariantResult, ...]

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        """The verdict of each variant by the metric."""
        return {each.variant: each.verdict for each in self.results if not each.is_guardrail}

    @property
    def harmed(self) -> Mapping[str, tuple[str, ...]]:
        """The guardrails that each variant harms."""
        return {
            variant: tuple(
                each.metric
                for each in self.results
                if each.variant == variant and each.verdict.kind == "harmed"
            )
            for variant in self.verdicts
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            **self.experiment.as_dict(),
            "as_of": plain(self.as_of),
            "days": self.days,
            "alpha": self.alpha,
            "metric": self.metric,
            "users": self.users,
            "left_out": self.left_out,
            "sample_ratio": self.sample_ratio.as_dict(),
            "results": [each.as_dict() for each in self.results],
        }


@traced
def experiment_report(
    session: Session,
    name: str,
    *,
    as_of: datetime | None = None,
    alpha: float = 0.05,
    metric: str | Statement | None = None,
) -> ExperimentReport:
    """Return the verdicts of an experiment. Read-only.

    It may be read as often as you like: the verdicts allow for that. For many millions of places,
    allow minutes in PostgreSQL's `statement_timeout`.

    Args:
        session: the caller's transaction.
        name: the experiment.
        as_of: the reading time, with an offset; None for now. Sessions that began later are left
            out, but what videos led to is counted as it is stored now.
        alpha: the chance that any variant is called different by the metric if none is, 0.0001 to
            0.9999; guardrails have the same chance once more.
        metric: another metric or guardrail than the one of the experiment; or a metric of your own,
            as a SELECT of a user's key (text or a whole number) and a number. Each user has one
            row, or none for 0.

    Raises:
        NotFound: there is no such experiment.
        InvalidValue: a value is malformed, or an interleaved experiment has another metric than
            ``engaged``.
    """
    moment = reading_time(as_of)
    alpha = scalars.parse_named("alpha", scalars.number, alpha, MIN_ALPHA, 1 - MIN_ALPHA)
    experiment = get_experiment(session, name)
    decides, decisive = _decisive(experiment, metric)
    end = min(moment, experiment.stopped_at or moment)
    ids = _profile_ids(session, experiment)
    scope = Scope(experiment.id, ids, experiment.feed, experiment.started_at, end)
    ratio, every = _sample_ratio(session, scope, experiment)
    guardrails = [each for each in experiment.guardrails if each != decides]
    variants = len(experiment.variants)
    reader = _Reader(session, scope, experiment, ratio)
    if experiment.interleaved:
        results = [reader.interleaved(alpha)]
    else:
        results = reader.results(decides, decisive, corrected(alpha, variants), is_guardrail=False)
    for guardrail in guardrails:
        own = corrected(alpha, variants * len(guardrails))
        results += reader.results(guardrail, USER_METRICS[guardrail], own, is_guardrail=True)
    counted = sum(ratio.users)
    return ExperimentReport(
        experiment, moment, scope.days, alpha, decides, counted, every - counted, ratio,
        tuple(results),
    )  # fmt: skip


def _decisive(experiment: Experiment, metric: str | Statement | None) -> tuple[str, UserMetric]:
    """Return the name of the metric that decides, and the metric."""
    chosen = experiment.metric if metric is None else metric
    if experiment.interleaved and (isinstance(chosen, sa.Select) or chosen != INTERLEAVED):
        raise InvalidValue(f"metric: an interleaved experiment compares {INTERLEAVED} only")
    if isinstance(chosen, sa.Select):
        if len(chosen.selected_columns) != 2:
            raise InvalidValue("metric: the SELECT has not two columns: a user's key and a number")
        return OWN, own_metric(chosen)
    if not isinstance(chosen, str) or chosen not in USER_METRICS:
        known = ", ".join(USER_METRICS)
        raise InvalidValue(f"metric: {scalars.shown(chosen)} is not one of {known}")
    return chosen, USER_METRICS[chosen]


def _profile_ids(session: Session, experiment: Experiment) -> tuple[int, ...]:
    stored = sa.select(EXPERIMENTS.c.arms).where(EXPERIMENTS.c.id == experiment.id)
    return tuple(arm["profile_id"] for arm in _rows(session, stored)[0].arms)


def _sample_ratio(
    session: Session, scope: Scope, experiment: Experiment
) -> tuple[SampleRatio, int]:
    """Return the check of the numbers of users, and the number with any session."""
    rows = _rows(session, population(scope))
    by_arm = {row.arm: row.users for row in rows}
    users = tuple(by_arm.get(arm, 0) for arm in range(len(experiment.arms)))
    shares = tuple(arm.share for arm in experiment.arms)
    if experiment.interleaved:  # every user is in both arms
        users, shares = users[:1], (1.0,)
    return SampleRatio(users, shares, ratio_p_value(users, shares)), by_arm[None]


def _rows(session: Session, statement: Statement) -> Sequence[Any]:
    return lookup.run(session, statement.prefix_with("/* recommender.experiment_report */")).all()


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads metrics of an experiment, and compares its arms."""

    session: Session
    scope: Scope
    experiment: Experiment
    ratio: SampleRatio

    def results(
        self, name: str, metric: UserMetric, alpha: float, *, is_guardrail: bool
    ) -> list[VariantResult]:
        """Return a metric's result for each variant: one statement."""
        sequence = ConfidenceSequence(alpha, self.experiment.least_effect)
        control, *variants = self._sums(metric)
        found = compare(control, variants)
        return [
            self._result(
                name, arm.profile, (control, own), each, sequence, is_guardrail=is_guardrail
            )
            for arm, own, each in zip(self.experiment.variants, variants, found, strict=True)
        ]

    def interleaved(self, alpha: float) -> VariantResult:
        """Return the result of pages that both profiles shared: two statements."""
        sequence = ConfidenceSequence(alpha, self.experiment.least_effect)
        control, lead = (self._sums(metric)[0] for metric in (CONTROL_CREDIT, LEAD))
        (variant,) = self.experiment.variants
        found = compare_credit(control, lead)
        return self._result(
            INTERLEAVED, variant.profile, (control, lead), found, sequence, is_guardrail=False
        )

    def _sums(self, metric: UserMetric) -> list[Sums]:
        """Return the sums of each arm, as arrays over the times of the scope."""
        arms, points = len(self.experiment.arms), self.scope.points
        added = np.zeros((arms, len(Sums._fields), points))
        for row in _rows(self.session, sums(self.scope, metric)):
            added[row.arm, :, row.point] = [getattr(row, name) for name in Sums._fields]
        return [Sums(*arm) for arm in added.cumsum(axis=-1)]

    def _result(
        self,
        metric: str,
        variant: str,
        compared: tuple[Sums, Sums],
        found: Comparison,
        sequence: ConfidenceSequence,
        *,
        is_guardrail: bool,
    ) -> VariantResult:
        by_day = tuple(
            DailyEffect(time, (int(control), int(own)), effect_of(Comparison(*each), sequence))
            for time, control, own, *each in zip(
                self.scope.times(), *(each.users for each in compared), *found, strict=True
            )
        )
        last = Comparison(*(each[-1] for each in found))
        return VariantResult(
            variant=variant,
            metric=metric,
            is_guardrail=is_guardrail,
            users=by_day[-1].users,
            effect=by_day[-1].effect,
            verdict=self._verdict(metric, last, sequence, is_guardrail=is_guardrail),
            by_day=by_day,
        )

    def _verdict(
        self, metric: str, found: Comparison, sequence: ConfidenceSequence, *, is_guardrail: bool
    ) -> Verdict:
        fewer_is_better = metric in FEWER_IS_BETTER
        if not self.ratio.ok:
            return Verdict("no verdict", sequence.least_effect)
        if is_guardrail:
            return guardrail_of(found, sequence, fewer_is_better=fewer_is_better)
        users = sum(self.ratio.users)
        return verdict_of(found, sequence, users, fewer_is_better=fewer_is_better)
