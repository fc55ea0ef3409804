"""Which arm of an experiment a request is in, and so which profile ranks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from recommender.database.expressions import Statement
from recommender.formats import scalars
from recommender.formats.experiments import Arm, arm_of, numbered_arm
from recommender.models import ExperimentRow, FeedSession
from recommender.ranking.profiles import profile_in
from recommender.ranking.request import Profile


def with_experiment(viewer_query: Statement, *, resumes: bool) -> Statement:
    """Add the experiment of a request to the query of a viewer; NULL if there is none.

    It is the one that runs on the feed with the name of the bind parameter `of_feed`. A session
    that is continued keeps the experiment in which it began, or none.

    Args:
        viewer_query: the query.
        resumes: whether the query has the viewer's session.
    """
    runs = sa.and_(
        ExperimentRow.feed == sa.bindparam("of_feed"), ExperimentRow.stopped_at.is_(None)
    )
    is_its = runs
    if resumes:
        begins, own = FeedSession.next_position.is_(None), FeedSession.experiment_id
        is_its = sa.or_(sa.and_(begins, runs), ExperimentRow.id == own)
    row = ExperimentRow
    columns = (row.id.label("experiment_id"), row.name.label("experiment"), row.arms)
    return viewer_query.add_columns(*columns).outerjoin(row, is_its)


def assigned(
    rows: Sequence[Any], profile: str | Profile | None, assign: str | None
) -> tuple[Arm | None, Profile]:
    """Return the arm and the profile of a request. The arm is None if it is in no experiment.

    A request that names a profile is in none. A known viewer's row decides the arm, so a new key
    does not change it.

    Args:
        rows: the rows of the viewer's query, with the profile outside of experiments.
        profile: what the caller asked for.
        assign: what decides the arm of an unknown viewer; None if they are in no experiment.

    Raises:
        InvalidValue: `assign` is no text, or empty.
        UnknownProfile: there is no such profile or version.
    """
    if assign is not None:
        scalars.parse_named("assign", scalars.key, assign)
    if isinstance(profile, Profile):
        return None, profile
    own, row = profile_in(rows, profile), rows[0]
    if profile is not None or row.experiment_id is None:
        return None, own
    if getattr(row, "next_position", None) is not None:
        return numbered_arm(row, row.arm), own
    if row.id is None and assign is None:
        return None, own
    arm, stored = arm_of(row, f"user {row.id}" if row.id is not None else f"assign {assign}")
    name, _, version = arm.name.partition("@")
    return arm, Profile(name, int(version), stored["weights"], id=stored["profile_id"])
