"""Verdicts of experiments: what an interval says of a variant, or how many more users it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from recommender.experiments.statistics import Comparison, ConfidenceSequence, plain_margin
from recommender.formats.plain import plain_fields

VerdictKind: TypeAlias = Literal[
    "better", "worse", "no difference", "go on", "harmed", "not harmed", "no verdict"
]


class Range(NamedTuple):
    """An interval: its low and its high end."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Effect:
    """The difference of a variant from the control in one metric.

    Attributes:
        control, variant: the mean outcomes, adjusted for the users' past.
        difference: `variant` minus `control`.
        plain: the interval of the difference that holds at one look.
        sequence: the interval of the difference that holds however often one looks.
        relative, relative_plain, relative_sequence: the same as parts of the control's mean.

    A mean of no users is None. Intervals are None while there are too few users, or while all
    outcomes are equal. `relative` values are also None if the control's mean is 0.
    """

    control: float | None
    variant: float | None
    difference: float | None
    plain: Range | None
    sequence: Range | None
    relative: float | None
    relative_plain: Range | None
    relative_sequence: Range | None

    def as_dict(self) -> dict[str, Any]:
        """Return the effect as JSON."""
        return plain_fields(self)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to think of a variant.

    Attributes:
        kind: ``better`` or ``worse`` if the sequence excludes 0; ``no difference`` if it lies
            within the smallest effect that matters on both sides of 0; else ``go on``. For a
            guardrail ``harmed`` or ``not harmed``. ``no verdict`` if the sample ratio is wrong.
        least_effect: the smallest effect that matters, as a part of the control's mean.
        more_users: about how many more users a verdict takes; None if it cannot be said yet, or if
            there is a verdict.
    """

    kind: VerdictKind
    least_effect: float
    more_users: int | None = None

    def __str__(self) -> str:
        """Return the verdict in words."""
        if self.kind == "no difference":
            return f"no difference beyond {100 * self.least_effect:g} %"
        if self.kind == "go on" and self.more_users is not None:
            return f"go on: about {self.more_users:,} more users"
        return self.kind

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON, with `text`, the verdict in words."""
        return {**plain_fields(self), "text": str(self)}


def corrected(alpha: float, tests: int) -> float:
    """Return the alpha of each of several tests (Bonferroni).

    The chance that any of their intervals does not hold is at most `alpha`, however they depend on
    each other. The tests of the metric are one family, with one test per variant; those of
    guardrails are another one, with one test per variant and guardrail.

    Args:
        alpha: the alpha of all tests together, 0 to 1.
        tests: the number of tests; 0 counts as 1.
    """
    # Not Holm's steps: they correct p values and leave no interval that could be shown.
    return alpha / max(tests, 1)


def effect_of(found: Comparison, sequence: ConfidenceSequence) -> Effect:
    """Return the difference of a variant with its intervals.

    Args:
        found: numbers, not arrays.
        sequence: the sequence; the plain interval has its alpha.
    """
    control, variant, difference = map(_known, (found.control, found.variant, found.difference))
    plain = _around(difference, float(plain_margin(found, sequence.alpha)))
    always = _around(difference, float(sequence.margin(found)))
    scale = abs(control or 0.0)
    return Effect(
        control=control,
        variant=variant,
        difference=difference,
        plain=plain,
        sequence=always,
        relative=difference / scale if difference is not None and scale else None,
        relative_plain=_relative(plain, scale),
        relative_sequence=_relative(always, scale),
    )


def _known(mean: float) -> float | None:
    return None if math.isnan(mean) else float(mean)


def _around(middle: float | None, margin: float) -> Range | None:
    if middle is None or math.isinf(margin):
        return None
    return Range(middle - margin, middle + margin)


def _relative(found: Range | None, scale: float) -> Range | None:
    return Range(found.low / scale, found.high / scale) if found and scale else None


def verdict_of(
    found: Comparison, sequence: ConfidenceSequence, users: int, *, fewer_is_better: bool = False
) -> Verdict:
    """Return the verdict of a variant by the metric of the experiment.

    Args:
        found: numbers, not arrays.
        sequence: the sequence that decides.
        users: the number of users of the experiment, in all arms.
        fewer_is_better: True if a lower mean is better.
    """
    effect, least = effect_of(found, sequence), sequence.least_effect
    always, interval = effect.sequence, effect.relative_sequence
    if always is not None and (always.low > 0 or always.high < 0):
        is_higher = always.low > 0
        return Verdict("worse" if is_higher is fewer_is_better else "better", least)
    if interval is None or effect.relative is None:
        return Verdict("go on", least)
    if -least < interval.low and interval.high < least:
        return Verdict("no difference", least)
    information = float(found.information)
    more = users * (_needed(sequence, effect.relative) / information - 1)
    return Verdict("go on", least, _about(more))


def guardrail_of(
    found: Comparison, sequence: ConfidenceSequence, *, fewer_is_better: bool
) -> Verdict:
    """Return the verdict of a variant by a guardrail: ``harmed`` only if the sequence says so.

    Args:
        found: numbers, not arrays.
        sequence: the sequence that decides.
        fewer_is_better: True if a higher mean is a harm.
    """
    as_metric = verdict_of(found, sequence, 0, fewer_is_better=fewer_is_better)
    return Verdict("harmed" if as_metric.kind == "worse" else "not harmed", sequence.least_effect)


def _needed(sequence: ConfidenceSequence, relative: float) -> float:
    """Return the information at which there is a verdict if the difference stays as it is."""
    # The sequence then excludes either 0 or the smallest effect: whichever is farther comes first.
    distance = abs(relative)
    return sequence.information_for(max(distance, sequence.least_effect - distance))


def _about(users: float) -> int:
    """Return a number of users rounded to two digits, at least 1."""
    return max(1, int(float(f"{users:.1e}")))
