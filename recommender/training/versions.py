"""The steps that both fits share: check the request, bound the weights, write the version."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Engine

from recommender.database.transactions import run_transaction
from recommender.errors import InvalidValue
from recommender.evaluation.log_replay import check_length
from recommender.evaluation.logistic import Regression, Scale
from recommender.formats import scalars
from recommender.formats.plain import plain_fields
from recommender.models.types import LARGEST_WEIGHT
from recommender.ranking.profiles import OF_LISTS, checked_name, checked_origin, create_profile
from recommender.settings import Settings

MIN_USERS = 2
"""The minimum number of users for a standard error over users."""

Result = TypeVar("Result", bound="LearnedVersion")


class LearnedVersion:
    """A fit and the profile version that it wrote. Subclasses are dataclasses with the figures."""

    __slots__ = ()

    profile: str
    parent: str
    weights: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the fit as JSON; an interval has a value, a low and a high end."""
        return plain_fields(self)

    def metrics(self) -> dict[str, Any]:
        """Return what is stored with the version: all that its row and weights do not contain."""
        known = ("profile", "parent", "weights")
        return {name: value for name, value in self.as_dict().items() if name not in known}


@dataclass(frozen=True, slots=True)
class LearnedWeights:
    """Weights and standard errors by signal; no weight exceeds the bound.

    Attributes:
        effects: the coefficient of every feature.
        weights: the weight of every signal; 0 without a coefficient.
        errors: the standard errors of the signals with a coefficient.
        cut: the signals whose weight was cut to the bound.
    """

    effects: Mapping[str, float]
    weights: Mapping[str, float]
    errors: Mapping[str, float]
    cut: tuple[str, ...]

    @classmethod
    def of(
        cls, names: Sequence[str], fitted: Regression, signals: Collection[str]
    ) -> LearnedWeights:
        """Return the weights from a regression on the named features.

        Args:
            names: the names of the features.
            fitted: the regression on them.
            signals: the names of all signals.
        """
        fitted_effects = dict(zip(names, fitted.coefficients[1:], strict=True))
        effects = {name: within(effect) for name, effect in fitted_effects.items()}
        errors = dict(zip(names, fitted.errors, strict=True))
        return cls(
            effects=effects,
            weights={name: effects.get(name, 0.0) for name in signals},
            errors={name: errors[name] for name in signals if name in errors},
            cut=tuple(name for name in effects if effects[name] != fitted_effects[name]),
        )


def without_constants(
    names: Sequence[str], scale: Scale, settings: Settings
) -> tuple[tuple[str, ...], Scale]:
    """Leave out the features that hardly vary; return the names and the scale of the others.

    The weight of such a feature would be large, and decide about any video whose value differs.

    Args:
        names: the names of the features.
        scale: their scale.
        settings: a feature stays if its deviation is at least `fit_least_deviation`.
    """
    kept = [
        (name, mean, deviation)
        for name, mean, deviation in zip(names, scale.means[1:], scale.deviations[1:], strict=True)
        if deviation >= settings.fit_least_deviation
    ]
    means, deviations = [mean for _, mean, _ in kept], [deviation for _, _, deviation in kept]
    return tuple(name for name, _, _ in kept), Scale([0.0, *means], [1.0, *deviations])


def ridges_of(scale: Scale, settings: Settings) -> list[float]:
    """Return the ridge of each standardised feature, so that all weights are penalised alike."""
    return [settings.fit_ridge / deviation**2 for deviation in scale.deviations[1:]]


def within(weight: float) -> float:
    """Return the nearest weight that the bounds allow."""
    return max(-LARGEST_WEIGHT, min(LARGEST_WEIGHT, weight))


def check_request(name: str, author: str | None, note: str | None, every: timedelta) -> None:
    """Check the arguments that both fits share.

    Raises:
        InvalidValue: one of them is malformed, or the profile ranks a list.
    """
    checked_name(name)
    if name in OF_LISTS:  # its newest version serves, and a fit is for For You
        raise InvalidValue(f"profile: {name} is for the list {name}: choose another name")
    checked_origin(author, note)
    check_length(every)


def check_bounds(
    since: datetime | None, until: datetime | None, *, is_replay: bool
) -> tuple[datetime, datetime]:
    """Return the times between which impressions are used.

    Raises:
        InvalidValue: they are in the wrong order, or a replayed log has no beginning.
    """
    if is_replay and since is None:
        raise InvalidValue(
            "since: a replayed log needs the time that cuts it: events before it are the past, and"
            " the weights are learned from events after it"
        )
    start = scalars.EARLIEST if since is None else scalars.time(since)
    end = scalars.LATEST if until is None else scalars.time(until)
    if end <= start:
        raise InvalidValue(f"until: {scalars.written_time(end)} is not after since")
    return start, end


def write_version(
    engine: Engine,
    name: str,
    result: Result,
    *,
    author: str | None,
    note: str | None,
    started: float,
    settings: Any,
    **known: Any,
) -> Result:
    """Write a version of a profile with the weights of a fit; it is not activated.

    Args:
        engine: of the database to write to.
        name: the name of the profile.
        result: the fit, without the fields in `known`, its duration and its profile.
        author: the author of the version.
        note: the reason for the version.
        started: the reading of `time.monotonic` at the start of the fit.
        settings: the settings of the transaction.
        **known: fields of the result to set.

    Returns:
        The fit with all fields.
    """
    seconds = round(time.monotonic() - started, 3)
    result = replace(result, seconds=seconds, **known)  # type: ignore[type-var]
    version = run_transaction(
        engine,
        lambda session: create_profile(
            session, name, result.weights,
            author=author, note=note, parent=result.parent, metrics=result.metrics(),
        ),
        settings=settings,
    )  # fmt: skip
    return replace(result, profile=version.label)  # type: ignore[type-var]
