"""Which profile wins on pages that two profiles shared: credit by place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader
import sqlalchemy as sa

from recommender.database.expressions import Statement, is_true, number
from recommender.evaluation.labels import HAPPENED
from recommender.experiments.metrics import looked_at, places
from recommender.experiments.statistics import MIN_USERS, Comparison, Sums
from recommender.experiments.user_sums import Part, UserMetric
from recommender.models import ServedVideo

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_loader.load("numpy")  # whatever reports no experiment starts without it


def _credit(control: float, variant: float) -> UserMetric:
    """Return what a user's engaged views are worth, each by the profile that placed the video."""

    def rows(part: Part) -> Statement:
        worth = dict(zip(part.scope.profile_ids, map(number, (control, variant)), strict=True))
        credit = sa.case(worth, value=ServedVideo.profile_id, else_=number(0))
        top = (credit * is_true(HAPPENED["engaged"])).label("top")
        return looked_at(places(part, top, number(0).label("bottom")))

    return UserMetric(rows, is_ratio=False, has_past=False)


CONTROL_CREDIT = _credit(1, 0)
"""The engaged views of the control's videos."""

LEAD = _credit(-1, 1)
"""The engaged views of the variant's videos, less those of the control's."""


def compare_credit(control: Sums, lead: Sums) -> Comparison:
    """Compare the credits of two profiles on the same users.

    A user who likes everything, or nothing, says nothing: only the difference within each user
    counts (Chapelle, Joachims, Radlinski and Yue, 2012, Large-scale validation and analysis of
    interleaved search evaluation).

    Args:
        control: the sums of `CONTROL_CREDIT`.
        lead: the sums of `LEAD`.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        users = np.asarray(lead.users)
        mean, difference = np.divide(control.y, users), np.divide(lead.y, users)
        variance = (lead.yy - lead.y * difference) / (users * (users - 1))
        is_known = (users >= MIN_USERS) & (variance > 0)
        error = np.sqrt(np.where(is_known, variance, np.inf))
    return Comparison(mean, mean + difference, error)
