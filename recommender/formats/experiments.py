"""Experiments: what they measure, their arms, and which arm a user is in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

Metric: TypeAlias = Literal[
    "engaged", "positives", "watch_time", "like", "share", "save", "return_1d", "return_7d",
    "sessions", "length",
]  # fmt: skip

METRICS: tuple[Metric, ...] = get_args(Metric)
"""What an experiment may want to raise, one value per user."""

Guardrail: TypeAlias = Literal[
    "reports", "not_interested", "small_creators", "diversity", "exhausted", "page_time"
]

GUARDRAILS: tuple[Guardrail, ...] = get_args(Guardrail)
"""What an experiment must not harm, one value per user; each metric may be one too."""

FEWER_IS_BETTER = ("reports", "not_interested", "exhausted", "page_time")
"""The guardrails that are harmed when they rise."""


INTERLEAVED: Metric = "engaged"
"""The metric of interleaved experiments: engaged views are credited to places."""


class Arm(NamedTuple):
    """The arm of an experiment that a user is in.

    Attributes:
        experiment: the name of the experiment.
        name: the profile of the arm, ``name@version``.
        number: 0 for the control, then the variants in order.
        experiment_id: the experiment's row.
    """

    experiment: str
    name: str
    number: int
    experiment_id: int


def arm_number(experiment: str, unit: str, shares: Sequence[float]) -> int:
    """Return the number of the arm of a unit: always the same, and without a row for it.

    Two experiments of different names assign independently of one another.

    Args:
        experiment: the name of the experiment.
        unit: what identifies the user.
        shares: the shares of the arms, which add up to 1.
    """
    digest = blake2b(unit.encode(), key=blake2b(experiment.encode()).digest(), digest_size=8)
    left = int.from_bytes(digest.digest()) / 2**64
    for number, share in enumerate(shares):
        left -= share
        if left < 0:
            return number
    return len(shares) - 1


def arm_of(row: Any, unit: str) -> tuple[Arm, Mapping[str, Any]]:
    """Return the arm of a unit, and what the experiment has stored of it.

    Args:
        row: an experiment: its `experiment_id`, `experiment` and `arms`.
        unit: what identifies the user.
    """
    number = arm_number(row.experiment, unit, [arm["share"] for arm in row.arms])
    return numbered_arm(row, number), row.arms[number]


def numbered_arm(row: Any, number: int) -> Arm:
    """Return the arm of a number.

    Args:
        row: an experiment: its `experiment_id`, `experiment` and `arms`.
        number: the number of the arm.
    """
    return Arm(row.experiment, row.arms[number]["profile"], number, row.experiment_id)
