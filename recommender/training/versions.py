"""The steps that both fits share: check the request, bound the weights, write the version."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Engine

from recommender.database.transactions import run_transaction
from recommender.errors import InvalidValue
from recommender.evaluation.log_replay import check_length
from recommender.evaluation.logistic import Regression, bounded
from recommender.formats import scalars
from recommender.formats.plain import plain_fields
from recommender.models.types import LARGEST_WEIGHT
from recommender.ranking.profiles import checked_name, checked_origin, create_profile
from recommender.ranking.signals import SIGNALS

MIN_USERS = 2
"""The minimum number of users for a standard error over users."""

SIGNAL_NAMES = tuple(signal.name for signal in SIGNALS)

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
    """Weights and standard errors by signal, scaled so that no weight exceeds the bound.

    Attributes:
        effects: the coefficient of every feature, not scaled.
        raw: the coefficient of every signal, not scaled; 0 if it has none.
        scale: the common factor, 1 if no weight was too large.
        weights: the scaled weight of every signal.
        errors: the scaled standard errors of the signals with a coefficient.
    """

    effects: Mapping[str, float]
    raw: Mapping[str, float]
    scale: float
    weights: Mapping[str, float]
    errors: Mapping[str, float]

    @classmethod
    def of(cls, names: Sequence[str], fitted: Regression) -> LearnedWeights:
        """Return the weights from a regression on the named features."""
        effects = dict(zip(names, fitted.coefficients[1:], strict=True))
        errors = dict(zip(names, fitted.errors, strict=True))
        raw = {name: effects.get(name, 0.0) for name in SIGNAL_NAMES}
        scale = bounded(list(raw.values()), LARGEST_WEIGHT)
        return cls(
            effects=effects,
            raw=raw,
            scale=scale,
            weights={name: within(weight * scale) for name, weight in raw.items()},
            errors={name: errors[name] * scale for name in SIGNAL_NAMES if name in errors},
        )


def within(weight: float) -> float:
    """Return the weight without a rounding error beyond the bound."""
    return max(-LARGEST_WEIGHT, min(LARGEST_WEIGHT, weight))


def check_request(name: str, author: str | None, note: str | None, every: timedelta) -> None:
    """Check the arguments that both fits share.

    Raises:
        InvalidValue: one of them is malformed.
    """
    checked_name(name)
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
